"""config.json of foreign checkpoints as `JanusConfig`.

What the other side can say and this model cannot do is refused by name: nothing is guessed.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from unijax.core.errors import UserError
from unijax.interop import plain
from unijax.interop.config_parts import (
    DROPOUT,
    JANUS_VQ,
    check_janus_vq,
    janus_vq_config,
    llama_config,
    read_config,
)
from unijax.interop.sections import BLOCKS, LAYERS, ROWS, SIDE, WIDTH, Section
from unijax.models.siglip import SIZES as SIGLIP_SIZES
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.janus import JanusConfig

# Defaults of the configuration classes, for keys that a file leaves out.
_VISION = {
    "model_type": "janus_vision_model", "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_channels": 3, "image_size": 384, "patch_size": 16,
    "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4.0, "attention_bias": True,
    "projection_dim": 2048, "use_qk_norm": False, "depth": 2, "num_image_tokens": 576,
}  # fmt: skip
_VQ = JANUS_VQ | {
    "projection_dim": 2048, "num_hidden_layers": 2, "hidden_act": "gelu",
    "image_token_embed_dim": 2048, "depth": 2,
}  # fmt: skip
# Of deepseek-ai's config.
_PARTS = (
    "language_config", "vision_config", "aligner_config", "gen_vision_config",
    "gen_aligner_config", "gen_head_config",
)  # fmt: skip


def read_sizes(directory: pathlib.Path, format: str, notes: list[str] | None = None) -> JanusConfig:
    """Sizes of a model directory of a format.

    Args:
      notes: what is to be told is added to it.

    Raises:
      UserError: for what this model cannot do, or a file that is not what it should be.
    """
    told = [] if notes is None else notes
    config = {"hf": from_hf, "deepseek": from_deepseek}[format](directory, told)
    check_janus_vq(config.vq, f"{directory / 'config.json'}")
    return config


def from_hf(directory: pathlib.Path, notes: list[str]) -> JanusConfig:
    """Sizes of a `JanusForConditionalGeneration` directory."""
    path = directory / "config.json"
    top = Section(f"{path}", read_config(directory))
    top.plain(plain.ANYWHERE)
    top.classes("JanusForConditionalGeneration", "JanusModel")
    text = llama_config(top.get("text_config"), f"{path}: text_config", notes)
    v = Section(f"{path}: vision_config", top.get("vision_config"), _VISION)
    q = Section(f"{path}: vq_config", top.get("vq_config"), _VQ)
    v.require("model_type", "janus_vision_model")
    v.require("num_channels", 3)
    v.require("attention_bias", True)
    # The adaptors of transformers share the activation of tower and tokenizer; ours are exact.
    v.require("hidden_act", "gelu")
    v.require("depth", 2)
    v.require("projection_dim", text.hidden_size)
    width, ratio = v.whole("hidden_size", WIDTH), v.real("mlp_ratio", WIDTH)
    vision = SiglipConfig(
        image_size=v.whole("image_size", SIDE),
        patch_size=v.whole("patch_size", SIDE),
        hidden_size=width,
        intermediate_size=int(width * ratio),
        num_hidden_layers=v.whole("num_hidden_layers", LAYERS),
        num_attention_heads=v.whole("num_attention_heads", WIDTH),
        layer_norm_eps=v.real("layer_norm_eps", 1),
        hidden_act="gelu",
    )
    if v.get("intermediate_size") is not None:
        v.require("intermediate_size", vision.intermediate_size)
    v.require("num_image_tokens", vision.num_tokens)
    v.plain(plain.ANYWHERE | plain.VISION)
    # transformers gives the tokenizer the grid of the tower, whatever `num_patches` says.
    vq = janus_vq_config(q, vision.image_size // vision.patch_size)
    q.require("hidden_act", "gelu")
    q.require("num_hidden_layers", 2)
    q.require("depth", 2)  # of the first converted ones, which no code reads
    q.require("projection_dim", text.hidden_size)
    q.require("image_token_embed_dim", text.hidden_size)
    notes += v.unknown(DROPOUT)
    notes += q.unknown((*DROPOUT, "num_patches"))
    notes += top.unknown()
    return JanusConfig(text=text, vision=vision, vq=vq)


def from_deepseek(directory: pathlib.Path, notes: list[str]) -> JanusConfig:
    """Sizes of a deepseek-ai/Janus directory.

    Its classes have the sizes of tower and tokenizer in code, by name; a directory exported here
    with other sizes has them written out beside the name.
    """
    path = directory / "config.json"
    top = Section(f"{path}", read_config(directory))
    top.plain(plain.ANYWHERE)
    top.classes("MultiModalityCausalLM")
    for name in _PARTS:
        if not top.get(name):
            raise UserError(
                str(path), f"no {name}", "the six parts of a Janus",
                "JanusFlow and DeepSeek-VL, of the same model_type, are other models.",
            )  # fmt: skip

    def params(name: str, defaults: Mapping | None, *classes: str) -> Section:
        """The parameters of a part that is one of these classes of deepseek-ai's code."""
        kind = name.removesuffix("_config")
        part = top.group(name, {"cls": "", "model_type": kind})
        part.require("model_type", kind)
        part.require("cls", *classes)
        own = part.group("params", defaults)
        part.plain(plain.ANYWHERE)
        notes.extend(part.unknown())
        own.plain(plain.ANYWHERE)
        return own

    v = params(
        "vision_config",
        {"select_layer": -2, "select_feature": "same", "ignore_head": True, "ckpt_path": ""},
        "CLIPVisionTower",
    )
    text = llama_config(top.get("language_config"), f"{path}: language_config", notes)

    def adaptor(name: str, width: int) -> None:
        section = params(name, {"depth": 1}, "MlpProjector")
        section.require("projector_type", "mlp_gelu")
        section.require("depth", 2)
        section.require("input_dim", width)
        section.require("n_embed", text.hidden_size)
        notes.extend(section.unknown())

    known = [name for name in SIGLIP_SIZES if name.startswith("siglip_large")]
    v.require("model_name", *known, "custom")
    v.require("select_layer", -1)
    v.require("select_feature", "same")
    v.require("ignore_head", True)
    v.require("ckpt_path", "")
    size = v.whole("image_size", SIDE)
    named = SIGLIP_SIZES.get(v.word("model_name"), SiglipConfig())
    sizes = _vision_sizes(v, named)
    vision = dataclasses.replace(named, image_size=size, **sizes)
    v.plain({"select_layers": (), "pixel_mean": (), "pixel_std": ()})
    q = params("gen_vision_config", None, "VQ-16", "custom")
    vq = VQConfig(
        embed_dim=q.whole("n_embed", WIDTH),
        num_embeddings=q.whole("image_token_size", ROWS),
        **_vq_sizes(q),
    )
    adaptor("aligner_config", vision.hidden_size)
    adaptor("gen_aligner_config", vq.embed_dim)
    head = params("gen_head_config", None, "vision_head")
    head.require("n_embed", text.hidden_size)
    head.require("image_token_embed", text.hidden_size)
    head.require("image_token_size", vq.num_embeddings)
    for section in (v, q, head):
        notes += section.unknown(("weight_init",))
    notes += top.unknown()
    return JanusConfig(text=text, vision=vision, vq=vq)


def _vision_sizes(params: Section, named: SiglipConfig) -> dict:
    """Of a tower that is exported under the name "custom"."""
    s = params.group("sizes", dataclasses.asdict(named))
    return {
        "patch_size": s.whole("patch_size", SIDE),
        "hidden_size": s.whole("hidden_size", WIDTH),
        "intermediate_size": s.whole("intermediate_size", WIDTH),
        "num_hidden_layers": s.whole("num_hidden_layers", LAYERS),
        "num_attention_heads": s.whole("num_attention_heads", WIDTH),
        "layer_norm_eps": s.real("layer_norm_eps", 1),
    }


def _vq_sizes(params: Section) -> dict:
    """The same of an image tokenizer."""
    s = params.group("sizes", dataclasses.asdict(VQConfig()))
    return {
        "image_size": s.whole("image_size", SIDE),
        "base_channels": s.whole("base_channels", WIDTH),
        "channel_multiplier": s.wholes("channel_multiplier", 64, 12),
        "num_res_blocks": s.whole("num_res_blocks", BLOCKS, least=0),
        "latent_channels": s.whole("latent_channels", WIDTH),
    }
