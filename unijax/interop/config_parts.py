"""config.json of networks that several systems are made of: Llama, SigLIP, Janus's VQ."""

import pathlib

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.interop import plain
from unijax.interop.sections import BLOCKS, LAYERS, POSITIONS, ROWS, SIDE, WIDTH, Section
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig

# Defaults of the configuration classes, for keys that a file leaves out.
_LLAMA = {
    "model_type": "llama", "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": 32000, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_size": 4096, "intermediate_size": 11008,
    "max_position_embeddings": 2048,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
JANUS_VQ = {
    "model_type": "janus_vqgan", "embed_dim": 8, "num_embeddings": 16384, "double_latent": False,
    "latent_channels": 256, "in_channels": 3, "base_channels": 128,
    "channel_multiplier": (1, 1, 2, 2, 4), "num_res_blocks": 2, "out_channels": 3,
    "num_patches": 32,
}  # fmt: skip
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}

# They act in training alone, where this model has none.
DROPOUT = (
    "attention_dropout", "dropout", "embd_pdrop", "embedding_dropout", "hidden_dropout",
    "hidden_dropout_rate", "projection_dropout", "resid_pdrop", "residual_dropout",
)  # fmt: skip
_BYTES = 2**24  # of a config.json
# `architectures` of a plain decoder; others of that family are masked or work otherwise.
_LLAMAS = ("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM")


def read_config(directory: pathlib.Path) -> dict:
    """config.json of a model directory. Raises UserError if it is missing or no JSON object."""
    return read_object(directory / "config.json", _BYTES)


def model_type(directory: pathlib.Path) -> object:
    """What config.json calls its model; None without one. Raises UserError if it is no JSON."""
    if not (directory / "config.json").exists():
        return None
    return read_config(directory).get("model_type")


def llama_config(values: object, where: str, notes: list[str]) -> LlamaConfig:
    """Sizes of a transformers Llama."""
    c = Section(where, values, _LLAMA)
    c.require("model_type", "llama")
    c.classes(*_LLAMAS)
    c.require("attention_bias", False)
    c.require("mlp_bias", False)
    c.require("hidden_act", "silu", "swish")
    layers = c.whole("num_hidden_layers", LAYERS)
    kinds = c.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * layers:
        raise UserError(
            f"{where}.layer_types", quoted(kinds), f"full_attention in all {layers}",
            "This model has no other kind.",
        )  # fmt: skip
    if c.get("no_rope_layers") not in (None, [], [1] * layers):
        raise UserError(
            f"{where}.no_rope_layers", quoted(c.get("no_rope_layers")), "rotary positions in all",
            "This model has no other kind.",
        )  # fmt: skip
    width, heads = c.whole("hidden_size", WIDTH), c.whole("num_attention_heads", WIDTH)
    config = LlamaConfig(
        vocab_size=c.whole("vocab_size", ROWS),
        hidden_size=width,
        intermediate_size=c.whole("intermediate_size", WIDTH),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_optional(c, "num_key_value_heads", heads),
        head_dim=_optional(c, "head_dim", max(width // heads, 1)),
        rms_norm_eps=c.real("rms_norm_eps", 1),
        rope_theta=rope_theta(c),
        max_position_embeddings=c.whole("max_position_embeddings", POSITIONS),
    )
    c.plain(plain.ANYWHERE | plain.TEXT)
    notes += c.unknown((*DROPOUT, "max_window_layers", "original_max_position_embeddings"))
    return config


def _optional(section: Section, key: str, default: int) -> int:
    return default if section.get(key) is None else section.whole(key, WIDTH)


def rope_theta(
    c: Section, kinds: tuple[str, ...] = ("default",), read: tuple[str, ...] = ()
) -> float:
    """The base of plain rotary positions, which may stand in three places.

    Args:
      kinds: what they may be called.
      read: keys beside it that the caller reads.
    """
    bases = {c.real("rope_theta", 1e30)} if "rope_theta" in c else set()
    # Releases of transformers before 5 write `rope_scaling`, older ones `type` in it.
    for name in ("rope_scaling", "rope_parameters"):
        rope = c.group(name)
        for key in ("rope_type", "type"):
            if rope.get(key) is not None:
                rope.require(key, *kinds)
        if rope.get("rope_theta") is not None:
            bases.add(rope.real("rope_theta", 1e30))
        rope.plain(
            {"factor": plain.ONE, "attention_factor": plain.ONE, "partial_rotary_factor": plain.ONE}
        )
        if rope.unknown(("original_max_position_embeddings", *read)):
            raise UserError(
                rope.where, quoted(c.get(name)), "rope_theta alone", "This model has no other kind."
            )
    if len(bases) > 1:
        raise UserError(
            f"{c.where}.rope_theta",
            f"{sorted(bases)}",
            "the same in all places",
            "Correct the file.",
        )
    return bases.pop() if bases else _LLAMA["rope_theta"]


def siglip_config(directory: pathlib.Path, notes: list[str]) -> SiglipConfig:
    """Sizes of a transformers `SiglipModel` or `SiglipVisionModel` directory."""
    path = directory / "config.json"
    top = Section(str(path), read_config(directory), SIGLIP | {"model_type": "siglip"})
    top.require("model_type", "siglip", "siglip_vision_model")
    top.classes("SiglipModel", "SiglipVisionModel")
    c = top
    if "vision_config" in top:
        c = top.group("vision_config", SIGLIP | {"model_type": "siglip_vision_model"})
        c.require("model_type", "siglip_vision_model")
    c.require("num_channels", 3)
    c.require("hidden_act", *ACTIVATIONS)
    limits = {"image_size": SIDE, "patch_size": SIDE, "num_hidden_layers": LAYERS}
    names = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads")  # fmt: skip
    config = SiglipConfig(
        **{name: c.whole(name, limits.get(name, WIDTH)) for name in names},
        layer_norm_eps=c.real("layer_norm_eps", 1),
        hidden_act=ACTIVATIONS[c.word("hidden_act")],
    )
    c.plain(plain.ANYWHERE | plain.VISION)
    harmless = ("num_image_tokens", "projection_dim", "projector_hidden_act", "vision_use_head")
    notes += c.unknown((*DROPOUT, *harmless))
    return config


def janus_vq_config(q: Section, grid: int) -> VQConfig:
    """Sizes of a transformers `JanusVQVAE`, whose codes of a picture are `grid` by `grid`.

    Args:
      q: with the defaults of `JANUS_VQ`.
    """
    q.require("model_type", "janus_vqgan")
    q.require("double_latent", False)
    q.require("in_channels", 3)
    q.require("out_channels", 3)
    multiplier = q.wholes("channel_multiplier", 64, 12)
    config = VQConfig(
        image_size=grid * 2 ** (len(multiplier) - 1),
        channel_multiplier=multiplier,
        **vq_counts(q),
    )
    q.plain(plain.ANYWHERE | plain.VQ)
    return config


def vq_counts(q: Section) -> dict[str, int]:
    """What transformers' image tokenizers call as `VQConfig` does, but for the multipliers."""
    return {
        "base_channels": q.whole("base_channels", WIDTH),
        "num_res_blocks": q.whole("num_res_blocks", BLOCKS, least=0),
        "latent_channels": q.whole("latent_channels", WIDTH),
        "embed_dim": q.whole("embed_dim", WIDTH),
        "num_embeddings": q.whole("num_embeddings", ROWS),
    }


def check_janus_vq(config: VQConfig, where: str) -> None:
    """Refuses an image tokenizer that is none of Janus's, or that no code runs."""
    if not (config.unit_codes and config.coarse_attention):
        raise UserError(
            where,
            f"unit_codes={config.unit_codes}, coarse_attention={config.coarse_attention}",
            "both, as the tokenizer of Janus has them",
            "This model cannot be exported.",
        )
    check_vq_runs(config, where)


def check_vq_runs(config: VQConfig, where: str) -> None:
    """Refuses an image tokenizer that the other side builds but cannot run.

    There the width of a level of the encoder changes in its blocks alone, and what follows is built
    as if it had changed.
    """
    if not config.num_res_blocks and set(config.channel_multiplier[:-1]) - {1}:
        raise UserError(
            where,
            f"num_res_blocks=0 with channel_multiplier={list(config.channel_multiplier)}",
            "a block where the width changes, or multipliers of 1 but for the last",
            "No code runs this model.",
        )
