"""config.json of Qwen2's decoders and of the towers that go with them in multimodal models."""

from collections.abc import Mapping
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted
from unijax.interop import plain
from unijax.interop.config_files import decoder_json
from unijax.interop.config_parts import ACTIVATIONS, DROPOUT, SIGLIP, rope_theta
from unijax.interop.sections import LAYERS, POSITIONS, ROWS, SIDE, WIDTH, Section
from unijax.models.llama import LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.siglip import SiglipConfig

_TEXT = {
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "use_sliding_window": False,
    "max_position_embeddings": 32768, "vocab_size": 151936, "hidden_size": 4096,
    "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32,
}  # fmt: skip
_QWEN_VISION = {
    "depth": 32, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420,
    "num_heads": 16, "in_channels": 3, "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "window_size": 112, "out_hidden_size": 3584,
    "fullatt_block_indexes": (7, 15, 23, 31),
}  # fmt: skip


def qwen2_text(c: Section, tied: bool, notes: list[str], axes: bool = False) -> LlamaConfig:
    """Sizes of a Qwen2 decoder.

    Args:
      c: its group; `text_section` has the defaults.
      tied: whether its head is its table.
      axes: whether its positions have three axes.
    """
    _check_kind(c, *(("qwen2_5_vl_text", "qwen2_5_vl") if axes else ("qwen2",)))
    c.require("hidden_act", "silu")
    c.require("use_sliding_window", False)
    for key in ("sliding_window", "max_window_layers", "layer_types"):
        c.get(key)  # they say nothing where no window is used
    layers = c.whole("num_hidden_layers", LAYERS)
    width, heads = c.whole("hidden_size", WIDTH), c.whole("num_attention_heads", WIDTH)
    theta, sections = _rope(c)
    if bool(sections) != axes:
        raise UserError(
            f"{c.where}.rope_scaling", f"mrope_section={list(sections)}",
            "three sections" if axes else "none", "This model has no other kind.",
        )  # fmt: skip
    config = LlamaConfig(
        c.whole("vocab_size", ROWS), width, c.whole("intermediate_size", WIDTH), layers, heads,
        c.whole("num_key_value_heads", WIDTH), max(width // heads, 1), c.real("rms_norm_eps", 1),
        theta, c.whole("max_position_embeddings", POSITIONS), mrope_section=sections,
        qkv_bias=True, tie_word_embeddings=tied,
    )  # fmt: skip
    windows = ("sliding_window", "max_window_layers", "use_sliding_window", "mrope_section")
    c.plain(plain.ANYWHERE | {k: v for k, v in plain.TEXT.items() if k not in windows})
    notes += c.unknown(DROPOUT)
    return config


def _check_kind(c: Section, *kinds: str) -> None:
    """Refuses a group of another model; releases may leave its name out."""
    if "model_type" in c:
        c.require("model_type", *kinds)


def text_section(where: str, values: Any) -> Section:
    """The group of a decoder."""
    return Section(where, values, _TEXT)


def _rope(c: Section) -> tuple[float, tuple[int, ...]]:
    theta, sections = rope_theta(c, ("default", "mrope"), ("mrope_section",)), ()
    for rope in map(c.group, ("rope_scaling", "rope_parameters")):
        if "mrope_section" in rope:
            sections = rope.wholes("mrope_section", WIDTH, 3)
    return theta, sections


def qwen_vision(c: Any, where: str, notes: list[str], size: int) -> QwenVisionConfig:
    """Sizes of Qwen2.5-VL's tower, for square pictures of `size` pixels."""
    s = Section(where, c, _QWEN_VISION)
    _check_kind(s, "qwen2_5_vl", "qwen2_5_vl_vision")
    s.require("hidden_act", "silu")
    s.require("in_channels", 3)
    s.require("in_chans", 3)
    s.require("temporal_patch_size", 2)
    given = s.get("fullatt_block_indexes")
    depth = s.whole("depth", LAYERS)
    if not isinstance(given, list | tuple) or not all(
        type(i) is int and 0 <= i < depth for i in given
    ):
        raise UserError(
            f"{where}.fullatt_block_indexes", quoted(given), f"blocks from 0 to {depth - 1}",
            "Correct the file.",
        )  # fmt: skip
    config = QwenVisionConfig(
        size, s.whole("patch_size", SIDE), s.whole("hidden_size", WIDTH),
        s.whole("intermediate_size", WIDTH), depth, s.whole("num_heads", WIDTH),
        s.whole("spatial_merge_size", SIDE), s.whole("window_size", SIDE), tuple(given),
        s.whole("out_hidden_size", WIDTH), min_pixels=1,
    )  # fmt: skip
    s.plain(plain.ANYWHERE)
    notes += s.unknown((*DROPOUT, "tokens_per_second", "spatial_patch_size", "rope_parameters"))
    return config


def siglip_vision(c: Any, where: str, notes: list[str]) -> SiglipConfig:
    """Sizes of the SigLIP tower of a LLaVA, whose features are those before its last norm."""
    s = Section(where, c, SIGLIP)
    _check_kind(s, "siglip_vision_model")
    s.require("num_channels", 3)
    s.require("hidden_act", *ACTIVATIONS)
    size, patch = s.whole("image_size", SIDE), s.whole("patch_size", SIDE)
    config = SiglipConfig(
        size, patch, s.whole("hidden_size", WIDTH), s.whole("intermediate_size", WIDTH),
        s.whole("num_hidden_layers", LAYERS), s.whole("num_attention_heads", WIDTH),
        s.real("layer_norm_eps", 1), ACTIVATIONS[s.word("hidden_act")], "pre_norm",
        leaves_pixels=bool(size % patch),
    )  # fmt: skip
    s.plain(plain.ANYWHERE | plain.VISION)
    notes += s.unknown((*DROPOUT, "vision_use_head", "projection_dim"))
    return config


def qwen2_json(config: LlamaConfig, dtype: str, **more: Any) -> Mapping[str, Any]:
    """Of a Qwen2 decoder, as part of a whole model's.

    Raises:
      UserError: if the decoder is none.
    """
    for name, found, expected in (
        ("qkv_bias", config.qkv_bias, True), ("qk_norm", config.qk_norm, "none"),
        ("norm_order", config.norm_order, "pre"), ("rope_scaling", config.rope_scaling, None),
        ("head_dim", config.head_dim, config.hidden_size // config.num_attention_heads),
    ):  # fmt: skip
        if found != expected:
            raise UserError(
                f"text.{name}", repr(found), f"{expected!r}, as Qwen2 has it",
                "This model cannot be exported.",
            )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.mrope_section:
        rope["mrope_section"] = list(config.mrope_section)
    return {
        **decoder_json(config),
        # transformers 5 reads rope_parameters, earlier releases the other two.
        "rope_parameters": rope,
        "use_sliding_window": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        **more,
    }
