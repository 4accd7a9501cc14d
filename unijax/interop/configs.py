"""config.json of foreign checkpoints as `JanusConfig`, and back.

What the other side can say and this model cannot do is refused by name: nothing is guessed.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from unijax.core.errors import UserError
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SIZES as SIGLIP_SIZES
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.ops.rope import RopeScaling
from unijax.systems.janus import JanusConfig

_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}

# Defaults of the configuration classes, for keys that a file leaves out.
_LLAMA = {
    "attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_scaling": None, "rope_parameters": None, "rope_theta": 10000.0, "vocab_size": 32000,
    "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096,
    "intermediate_size": 11008, "max_position_embeddings": 2048,
}  # fmt: skip
_VISION = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_channels": 3,
    "image_size": 384, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    "mlp_ratio": 4.0, "attention_bias": True, "projection_dim": 2048, "use_qk_norm": False,
    "depth": 2, "num_image_tokens": 576,
}  # fmt: skip
_VQ = {
    "embed_dim": 8, "num_embeddings": 16384, "double_latent": False, "latent_channels": 256,
    "in_channels": 3, "base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2, "out_channels": 3, "projection_dim": 2048, "num_hidden_layers": 2,
    "hidden_act": "gelu", "image_token_embed_dim": 2048,
}  # fmt: skip
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip


def read_json(path: pathlib.Path) -> dict:
    """Raises UserError if the file is missing or is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            str(path.parent), f"no {path.name}", "a model directory", "Give the right directory."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(str(path), str(e), "JSON", "Fetch the file again.") from e
    if not isinstance(content, dict):
        raise UserError(str(path), type(content).__name__, "a JSON object", "Fetch it again.")
    return content


def detect_format(directory: pathlib.Path) -> str:
    """ "hf" or "deepseek", by the model type in config.json."""
    kinds = {"janus": "hf", "multi_modality": "deepseek"}
    found = read_json(directory / "config.json").get("model_type")
    if found not in kinds:
        raise UserError(
            str(directory / "config.json"),
            f"model_type {found!r}",
            f"one of {sorted(kinds)}",
            "Parts of a model are imported with --llama, --siglip and --vq.",
        )
    return kinds[found]


class _Section:
    """A section of a config file, its class's defaults behind it."""

    def __init__(self, where: str, values: Mapping | None, defaults: Mapping):
        self.where = where
        self._defaults = defaults
        self._values = {**defaults, **(values or {})}

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise UserError(self.where, f"no {key}", "a value for it", "Complete the file.")
        value, default = self._values[key], self._defaults.get(key)
        kind = (int, float) if type(default) is float else type(default)
        if default is not None and not isinstance(value, kind):
            raise UserError(
                f"{self.where}.{key}", repr(value), f"such as {default!r}", "Correct the file."
            )
        return value

    def require(self, key: str, *allowed: Any) -> None:
        if self[key] not in allowed:
            raise UserError(
                f"{self.where}.{key}",
                repr(self[key]),
                " or ".join(map(repr, allowed)),
                "This model has no other kind.",
            )


def from_hf(directory: pathlib.Path) -> JanusConfig:
    """Sizes of a `JanusForConditionalGeneration` directory."""
    path = directory / "config.json"
    config = read_json(path)
    text = llama_config(config.get("text_config"), f"{path}: text_config")
    v = _Section(f"{path}: vision_config", config.get("vision_config"), _VISION)
    q = _Section(f"{path}: vq_config", config.get("vq_config"), _VQ)
    v.require("num_channels", 3)
    v.require("attention_bias", True)
    v.require("use_qk_norm", False)
    # The adaptors of transformers share the activation of tower and tokenizer; ours are exact.
    v.require("hidden_act", "gelu")
    v.require("depth", 2)
    v.require("projection_dim", text.hidden_size)
    q.require("hidden_act", "gelu")
    q.require("double_latent", False)
    q.require("in_channels", 3)
    q.require("out_channels", 3)
    q.require("num_hidden_layers", 2)
    q.require("projection_dim", text.hidden_size)
    q.require("image_token_embed_dim", text.hidden_size)
    vision = SiglipConfig(
        image_size=v["image_size"],
        patch_size=v["patch_size"],
        hidden_size=v["hidden_size"],
        intermediate_size=int(v["hidden_size"] * v["mlp_ratio"]),
        num_hidden_layers=v["num_hidden_layers"],
        num_attention_heads=v["num_attention_heads"],
        layer_norm_eps=v["layer_norm_eps"],
        hidden_act="gelu",
    )
    v.require("num_image_tokens", vision.num_tokens)
    multiplier = tuple(q["channel_multiplier"])
    vq = VQConfig(
        # transformers gives the tokenizer the grid of the tower.
        image_size=(v["image_size"] // v["patch_size"]) * 2 ** (len(multiplier) - 1),
        base_channels=q["base_channels"],
        channel_multiplier=multiplier,
        num_res_blocks=q["num_res_blocks"],
        latent_channels=q["latent_channels"],
        embed_dim=q["embed_dim"],
        num_embeddings=q["num_embeddings"],
    )
    return JanusConfig(text=text, vision=vision, vq=vq)


def from_deepseek(directory: pathlib.Path) -> JanusConfig:
    """Sizes of a deepseek-ai/Janus directory.

    Its classes have the sizes of tower and tokenizer in code, by name; a directory exported here
    with other sizes has them written out beside the name.
    """
    path = directory / "config.json"
    config = read_json(path)
    text = llama_config(config.get("language_config"), f"{path}: language_config")

    def params(section: str) -> dict:
        return (config.get(section) or {}).get("params") or {}

    def adaptor(name: str, width: int) -> None:
        section = _Section(f"{path}: {name}.params", params(name), {"depth": 1, "input_dim": None})
        section.require("projector_type", "mlp_gelu")
        section.require("depth", 2)
        section.require("input_dim", width)
        section.require("n_embed", text.hidden_size)

    v = _Section(f"{path}: vision_config.params", params("vision_config"), {"sizes": {}})
    v.require("model_name", *SIGLIP_SIZES, "custom")
    v.require("select_layer", -1)
    named = SIGLIP_SIZES.get(v["model_name"], SiglipConfig())
    vision = dataclasses.replace(named, image_size=v["image_size"], **v["sizes"])
    q = _Section(f"{path}: gen_vision_config.params", params("gen_vision_config"), {"sizes": {}})
    sizes = dict(q["sizes"])
    if "channel_multiplier" in sizes:
        sizes["channel_multiplier"] = tuple(sizes["channel_multiplier"])
    vq = VQConfig(embed_dim=q["n_embed"], num_embeddings=q["image_token_size"], **sizes)
    adaptor("aligner_config", vision.hidden_size)
    adaptor("gen_aligner_config", vq.embed_dim)
    head = _Section(f"{path}: gen_head_config.params", params("gen_head_config"), {})
    head.require("n_embed", text.hidden_size)
    head.require("image_token_embed", text.hidden_size)
    head.require("image_token_size", vq.num_embeddings)
    return JanusConfig(text=text, vision=vision, vq=vq)


def llama_config(values: Mapping | None, where: str) -> LlamaConfig:
    """Sizes of a transformers Llama."""
    c = _Section(where, values, _LLAMA)
    c.require("attention_bias", False)
    c.require("mlp_bias", False)
    c.require("hidden_act", "silu")
    c.require("rope_scaling", None)
    rope = c["rope_parameters"] or {}
    _Section(f"{where}.rope_parameters", rope, {"rope_type": "default"}).require(
        "rope_type", "default"
    )
    heads = c["num_attention_heads"]
    head_dim = (values or {}).get("head_dim") or c["hidden_size"] // heads
    return LlamaConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["intermediate_size"],
        num_hidden_layers=c["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=(values or {}).get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rms_norm_eps=c["rms_norm_eps"],
        rope_theta=float(rope.get("rope_theta", c["rope_theta"])),
        max_position_embeddings=c["max_position_embeddings"],
    )


def siglip_config(directory: pathlib.Path) -> SiglipConfig:
    """Sizes of a transformers `SiglipModel` or `SiglipVisionModel` directory."""
    path = directory / "config.json"
    config = read_json(path)
    values = config.get("vision_config", config)
    c = _Section(str(path), values, _SIGLIP)
    c.require("num_channels", 3)
    c.require("hidden_act", *_ACTIVATIONS)
    names = [f.name for f in dataclasses.fields(SiglipConfig) if f.name in _SIGLIP]
    return SiglipConfig(
        **{n: c[n] for n in names if n != "hidden_act"}, hidden_act=_ACTIVATIONS[c["hidden_act"]]
    )


def to_json(config: JanusConfig) -> dict:
    """As checkpoints record it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_run(run: Mapping, where: str) -> JanusConfig:
    """Sizes that a checkpoint's description records.

    Raises:
      UserError: if it is of another system.
    """
    config = run.get("config") or {}
    if config.get("system") != "janus":
        raise UserError(
            where,
            f"a checkpoint of the system {config.get('system')!r} (stage {run.get('stage')!r})",
            "one of the system 'janus'",
            "Give the run directory of a Janus.",
        )
    model = dict(config["model"])
    text = dict(model.pop("text"))
    text["mrope_section"] = tuple(text.get("mrope_section", ()))
    if text.get("rope_scaling"):
        text["rope_scaling"] = RopeScaling(**text["rope_scaling"])
    vq = dict(model.pop("vq"))
    vq["channel_multiplier"] = tuple(vq["channel_multiplier"])
    return JanusConfig(
        text=LlamaConfig(**text),
        vision=SiglipConfig(**model.pop("vision")),
        vq=VQConfig(**vq),
        **model,
    )
