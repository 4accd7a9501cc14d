"""Pictures of more than 8 bits a sample, to 8: their range is found, their transparency kept.

Pillow hands out 16 bits of grey alone. Of colours it keeps the upper byte of each sample; the lower
one is read by a second decoding that takes the samples for numbers of the other byte order.
"""

import io
import sys

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageFile

from unijax.core.errors import UserError
from unijax.core.telling import tell_once
from unijax.data.image_bytes import Encoded

# Tags of TIFF: bits of a sample, what its numbers mean, and where samples lie.
_WIDTHS, _MEANING, _PLANES = 258, 262, 284
# Samples are of one of these widths where the file does not say: of the first that holds them all.
_BITS = (8, 10, 12, 14)
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def is_deep(picture: Image.Image) -> bool:
    """Whether the file, which is not yet decoded, has more than 8 bits a sample."""
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(_WIDTHS, (1,))) > 8
    return picture.mode.startswith("I") or ";16" in _raw_mode(picture)


def to_rgb(picture: ImageFile.ImageFile, encoded: Encoded, where: str) -> Image.Image:
    """RGB on white.

    White is the largest number of 16 bits, by the formats' own rule. Where no sample needs more
    than 8, 10, 12 or 14 bits it is the largest of those: cameras and scanners put their samples
    into files of 16 bits as they are, and such pictures would be nearly black.
    """
    raw = _raw_mode(picture)
    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    if tags.get(_PLANES) == 2 and not picture.mode.startswith("I"):
        raise UserError(
            where,
            "a TIFF of 16 bits whose colours lie apart (planar)",
            "the samples of a pixel side by side",
            "Save the picture anew.",
        )
    samples = _samples(picture, raw, encoded.content)
    colours = 1 if picture.mode.startswith("I") or raw.startswith("LA") else 3
    white = 2**12 - 1 if raw == "I;12" else _white(samples[..., :colours], encoded, where)
    colour = _eight_bits(samples[..., :colours], white)
    if tags.get(_MEANING) == 0:  # white is zero
        colour = 255 - colour
    if raw.startswith("CMYK"):
        ink = np.concatenate([colour, _eight_bits(samples[..., 3:], white)], axis=2)
        return Image.frombytes("CMYK", ink.shape[1::-1], ink.tobytes()).convert("RGB")
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    if encoded.key is not None:
        alpha = np.where((samples == encoded.key).all(axis=2, keepdims=True), 0, 255)
    elif samples.shape[2] > colours:
        alpha = _eight_bits(samples[..., colours:], _white(samples[..., colours:], encoded, where))
    else:
        return Image.fromarray(np.ascontiguousarray(colour))
    if raw.startswith("RGBa"):  # the colours are multiplied by it
        on_white = colour + (255 - alpha.astype(np.uint16))
        return Image.fromarray(np.minimum(on_white, 255).astype(np.uint8))
    rgba = Image.fromarray(np.concatenate([colour, alpha.astype(np.uint8)], axis=2))
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255,) * 4), rgba).convert("RGB")


def _raw_mode(picture: Image.Image) -> str:
    """How Pillow's decoder is told to read samples."""
    arguments = picture.tile[0].args if getattr(picture, "tile", None) else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _samples(picture: ImageFile.ImageFile, raw: str, content: bytes) -> UInt16[np.ndarray, "_ _ _"]:
    if picture.mode.startswith("I"):
        return np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)[..., None]
    if raw == "LA;16B":  # as many bytes as four samples of 8 bits
        return _bytes(picture, content, "RGBA").view(">u2").astype(np.uint16)
    # As they are: Pillow would divide them by alpha.
    raw = raw.replace("RGBa", "RGBA")
    upper = _bytes(picture, content, raw).astype(np.uint16)
    return upper * 256 + _bytes(picture, content, raw[:-1] + _OTHER_ORDER[raw[-1]])


def _bytes(picture: ImageFile.ImageFile, content: bytes, raw: str) -> UInt8[np.ndarray, "_ _ _"]:
    """The picture decoded again, its bytes read as `raw` says."""
    with Image.open(io.BytesIO(content), formats=(picture.format,)) as again:
        again.tile = [
            tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
            for tile in again.tile
        ]
        return np.array(again)


def _white(samples: UInt16[np.ndarray, "_ _ _"], encoded: Encoded, where: str) -> int:
    most = int(samples.max(initial=0))
    told = encoded.significant
    for bits in _BITS if told is None else (told,):
        # Numbers of 8 bits that were spread over 16 are 257 times as large.
        if bits < 16 and 0 < most < 2**bits and (samples % 257).any():
            tell_once(
                f"{bits} bits in 16",
                f"{where}: a picture of 16 bits without a number above {most} is read as one of "
                f"{bits} bits, and so are others like it",
            )
            return 2**bits - 1
    return 2**16 - 1


def _eight_bits(samples: UInt16[np.ndarray, "_ _ _"], white: int) -> UInt8[np.ndarray, "_ _ _"]:
    table = np.minimum(np.round(np.arange(2**16) * (255 / white)), 255).astype(np.uint8)
    return table[samples]
