"""Pictures: from bytes to square uint8 arrays, the way each stream of Janus sees them."""

import io
import struct
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from unijax.core.errors import UserError

PAD_COLOUR = (127, 127, 127)  # int(255 * 0.5): the mean of the released preprocessing
MIN_SIDE = 14  # the short side is never resized below this
# A picture to generate that is longer than this many short sides is cropped before it is resized
# too: a line of 1 x 200000 pixels would become one of 384 x 76800000. Shorter ones are resized
# whole, as by the released code: to resize the middle alone differs in its last bits.
LONGEST = 16

RGB = UInt8[np.ndarray, "_ _ 3"]  # of any size: one function may see several


def decode(content: bytes | np.ndarray, where: str, max_pixels: int) -> RGB:
    """RGB pixels of an encoded picture, or of an array that is one already.

    Transparent pixels are laid on white, and the picture is turned as its EXIF orientation says.
    The size is checked before the pixels are decoded.

    Args:
      content: an encoded picture (any format that PIL reads), or uint8 [height, width, 3].
      where: the record, for messages.
      max_pixels: width times height at most.

    Raises:
      UserError: naming the record, for what is no picture, is cut short, or is too large.
    """
    if isinstance(content, np.ndarray):
        assert content.dtype == np.uint8, content.dtype
        assert content.shape[2:] == (3,), content.shape
        return content
    try:
        with warnings.catch_warnings():
            # The size is judged here, by max_pixels, not by PIL's own guess.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                _check_size(picture.width, picture.height, where, max_pixels)
                _check_range(picture, where)
                return np.asarray(_on_white(_upright(picture)))
    except Image.DecompressionBombError as error:
        expected = f"a picture of at most {max_pixels} pixels"
        raise UserError(where, f"{error}", expected, "Shrink the picture.") from error
    except UnidentifiedImageError:
        raise _undecodable(where, f"{len(content)} bytes that are no known picture") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise _undecodable(where, f"a picture that cannot be decoded ({error})") from error


def for_understanding(
    pixels: RGB, size: int, rounding: str = "floor"
) -> UInt8[np.ndarray, "size size 3"]:
    """The whole picture in a square: long side to `size`, the rest filled with mid grey.

    Bicubic with antialiasing, as in PIL. The released code of Janus makes the short side
    `int(short / long * size)`; Hugging Face's processor rounds to the nearest, which is at times a
    pixel more. Normalisation to [-1, 1] is done on the device.

    Args:
      pixels: uint8 [height, width, 3].
      size: side of the result.
      rounding: "floor" or "round", of the short side.
    """
    height, width = pixels.shape[:2]
    scale = int if rounding == "floor" else round
    long, least = max(height, width), min(MIN_SIDE, size)
    new_height = max(scale(height / long * size), least)
    new_width = max(scale(width / long * size), least)
    resized = resize(pixels, new_width, new_height)
    square = np.empty((size, size, 3), np.uint8)
    square[:] = PAD_COLOUR
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = resized
    return square


def for_generation(pixels: RGB, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The middle of the picture: short side to `size`, the long side cropped at both ends."""
    pixels = _middle(pixels, LONGEST * min(pixels.shape[:2]))
    height, width = pixels.shape[:2]
    short = min(height, width)
    new_height, new_width = round(height / short * size), round(width / short * size)
    resized = resize(pixels, new_width, new_height)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return resized[top : top + size, left : left + size]


def _middle(pixels: RGB, side: int) -> RGB:
    """The middle, `side` or a pixel more, of sides that are longer: as much goes at both ends."""
    height, width = pixels.shape[:2]
    top, left = max(height - side, 0) // 2, max(width - side, 0) // 2
    return pixels[top : height - top, left : width - left]


def resize(pixels: RGB, width: int, height: int) -> RGB:
    """Bicubic with antialiasing, as in PIL."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as viewers show it. EXIF that cannot be read, which is common, turns nothing."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, OSError):
        return picture


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, transparency composited on white."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.convert("RGB")
    if picture.mode.startswith("I"):
        return _sixteen_bit(picture)
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _sixteen_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8: PIL's own conversion clips at 255."""
    grey = np.asarray(picture, np.float64) / 257.0
    return Image.fromarray(np.clip(grey.round(), 0, 255).astype(np.uint8)).convert("RGB")


def _check_size(width: int, height: int, where: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(where, f"{width} x {height} pixels", max_pixels)


def _check_range(picture: Image.Image, where: str) -> None:
    """Refuses pixels of 32 bits, whose black and white no one knows."""
    # PIL holds 16 bits of PNG and PGM in the mode I as well, and scales those of PGM to 65535.
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        raise UserError(
            where,
            f"a picture of 32 bits a pixel (mode {picture.mode})",
            "8 or 16 bits, where 0 is black and the largest number white",
            "Scale its values and save it anew.",
        )


def _too_large(where: str, found: str, max_pixels: int) -> UserError:
    return UserError(
        where,
        found,
        f"a picture of at most {max_pixels} pixels",
        "Shrink the picture, or raise data.max_pixels.",
    )


def _undecodable(where: str, found: str) -> UserError:
    return UserError(
        where, found, "a picture (PNG, JPEG, WebP, ...)", "Replace the picture or leave it out."
    )
