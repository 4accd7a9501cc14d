"""config.json of LLaVA-NeXT: its CLIP tower, and the sizes that pictures are brought to."""

from unijax.core.errors import UserError
from unijax.core.json_files import quoted
from unijax.interop import plain
from unijax.interop.config_parts import ACTIVATIONS, DROPOUT
from unijax.interop.sections import LAYERS, SIDE, WIDTH, Section
from unijax.models.clip import ClipVisionConfig

# Defaults of transformers' `CLIPVisionConfig`.
_CLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_ACTIVATIONS = {"quick_gelu": "quick_gelu"} | ACTIVATIONS
# Of the releases, (height, width) in parts.
_RELEASED = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
PINPOINTS = [[336 * height, 336 * width] for height, width in _RELEASED]
LAST = -1  # a `vision_feature_layer`: all layers, without the last norm


def clip_vision(top: Section, notes: list[str]) -> ClipVisionConfig:
    """Sizes of the tower up to the layer that the decoder reads.

    Args:
      top: with the defaults of transformers' `LlavaNextConfig`.
    """
    top.require("vision_feature_layer", LAST - 1, LAST)
    unread = LAST - top.get("vision_feature_layer")
    if "vision_config" not in top:
        raise UserError(top.where, "no vision_config", "the tower's sizes", "Complete the file.")
    s = top.group("vision_config", _CLIP)
    if "model_type" in s:
        s.require("model_type", "clip_vision_model")
    s.require("num_channels", 3)
    s.require("hidden_act", *_ACTIVATIONS)
    config = ClipVisionConfig(
        s.whole("image_size", SIDE), s.whole("patch_size", SIDE), s.whole("hidden_size", WIDTH),
        s.whole("intermediate_size", WIDTH),
        s.whole("num_hidden_layers", LAYERS, least=1 + unread) - unread,
        s.whole("num_attention_heads", WIDTH), s.real("layer_norm_eps", 1),
        _ACTIVATIONS[s.word("hidden_act")], "pre_norm",
    )  # fmt: skip
    s.plain(plain.ANYWHERE | plain.VISION)
    notes += s.unknown((*DROPOUT, "projection_dim", "vocab_size"))
    return config


def tiles(top: Section, size: int, wanted: int | None) -> int:
    """Parts of a side of square pictures, for a tower of `size` pixels.

    A square picture that is as large as one of the sizes is brought to that one, whichever others
    there are (transformers' `select_best_resolution`).

    Args:
      wanted: of a run; None for the most that there are.
    """
    given = top.get("image_grid_pinpoints")
    if not isinstance(given, list) or not all(map(_is_size, given)):
        raise UserError(
            f"{top.where}.image_grid_pinpoints", quoted(given),
            f"a list of [height, width], whole numbers from 1 to {SIDE:,}", "Correct the file.",
        )  # fmt: skip
    found = {height // size for height, width in given if height == width and not height % size}
    if not found or wanted not in (None, *found):
        side = (wanted or 2) * size
        such = "" if wanted else "a square of whole parts of the tower's size, such as "
        expected = f"{such}[{side}, {side}] among them"
        raise UserError(
            f"{top.where}.image_grid_pinpoints", quoted(given), expected,
            "Pictures are squares of one size here.",
        )  # fmt: skip
    return wanted or max(found)


def _is_size(value: object) -> bool:
    numbers = isinstance(value, list) and len(value) == 2
    return numbers and all(type(x) is int and 0 < x <= SIDE for x in value)


def pinpoints(size: int, parts: int) -> list[list[int]]:
    """Sizes for pictures of so many parts a side: the releases', where they have that square."""
    sizes = _RELEASED if (parts, parts) in _RELEASED else ((parts, parts),)
    return [[size * height, size * width] for height, width in sizes]
