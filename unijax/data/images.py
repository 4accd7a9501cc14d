"""Pictures: from bytes to square uint8 arrays, the way each stream of Janus sees them."""

import io
import re
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from unijax.core.errors import UserError
from unijax.core.telling import tell_once
from unijax.data import deep_pixels, image_bytes
from unijax.data.image_bytes import Encoded

PAD_COLOUR = (127, 127, 127)  # int(255 * 0.5): the mean of the released preprocessing
MIN_SIDE = 14  # the short side is never resized below this
# A picture to generate that is longer than this many short sides is cropped before it is resized
# too: a line of 1 x 200000 pixels would become one of 384 x 76800000. Shorter ones are resized
# whole, as by the released code: to resize the middle alone differs in its last bits.
LONGEST = 16

# Formats in use for pictures whose decoders are quick and well tried. Others that Pillow knows run
# programs (EPS), go over each pixel in Python, say in their first bytes anything at all, or let a
# small file ask for millions of parts of a picture (the precincts and blocks of JPEG 2000).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_SIDE = 65_535  # of a JPEG; the work for a line of pixels is not that for as many in a square
_STRIP = 2**22  # pixels that are laid on white at a time

RGB = UInt8[np.ndarray, "_ _ 3"]  # of any size: one function may see several


def decode(content: bytes | np.ndarray, where: str, max_pixels: int) -> RGB:
    """RGB pixels of an encoded picture, or of an array that is one already.

    Transparent pixels are laid on white, and the picture is turned as its EXIF orientation says. Of
    several frames or pages the first is taken. The size is checked before the pixels are decoded.

    Args:
      content: an encoded picture in one of `FORMATS`, or uint8 [height, width, 3].
      where: the record, for messages.
      max_pixels: width times height at most.

    Raises:
      UserError: naming the record, for what is no picture, is cut short, or is too large.
    """
    if isinstance(content, np.ndarray):
        assert content.dtype == np.uint8, content.dtype
        assert content.shape[2:] == (3,), content.shape
        return content
    encoded = image_bytes.read(content, where)
    try:
        with warnings.catch_warnings():
            # The size is judged here, and what else Pillow doubts leaves a picture or raises.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded.content), formats=FORMATS) as picture:
                _check_size(picture.width, picture.height, where, max_pixels)
                _check_range(picture, where)
                _check_tiles(picture, where, max_pixels)
                _check_strips(picture, encoded.content, where)
                if encoded.frames or getattr(picture, "is_animated", False):
                    tell_once("frames", f"{where}: of several frames or pages the first is read")
                return _pixels(picture, encoded, where)
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # of a size that Pillow does not open at all
        pixels = re.search(r"(\d+) pixels", str(error))
        raise _too_large(where, pixels[0] if pixels else f"{error}", max_pixels) from error
    except UnidentifiedImageError:
        kind = image_bytes.kind_of(content)
        found = f"{kind} that cannot be read" if kind else "bytes that are no known picture"
        raise _undecodable(where, found if kind else f"{len(content)} {found}") from None
    except MemoryError as error:
        raise _undecodable(where, "a picture that does not fit into memory") from error
    except Exception as error:  # decoders raise what they like: struct.error, KeyError, ...
        reason = str(error) or type(error).__name__
        raise _undecodable(where, f"a picture that cannot be decoded ({reason})") from error


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


def _pixels(picture: Image.Image, encoded: Encoded, where: str) -> RGB:
    if deep_pixels.is_deep(picture):
        return np.asarray(_upright(deep_pixels.to_rgb(picture, encoded, where), _turn(picture)))
    picture.load()
    picture = _upright(picture, _turn(picture))
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if encoded.key is not None and encoded.bits < 8:
        # Pillow widens the samples of 1, 2 or 4 bits, but not the one that is transparent.
        picture = picture.convert("L")
        picture.info["transparency"] = encoded.key[0] * (255 // (2**encoded.bits - 1))
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(_STRIP // picture.width, 1)
    for top in range(0, picture.height, rows):
        end = min(top + rows, picture.height)
        out[top:end] = _on_white(picture.crop((0, top, picture.width, end)))
    return out


# How the picture has to be turned, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """As viewers show it. EXIF that cannot be read, which is common, turns nothing."""
    if picture.format == "TIFF":  # Pillow turns these as it decodes
        return None
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever damaged EXIF leads to
        return None


def _upright(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, transparency composited on white."""
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _check_size(width: int, height: int, where: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(where, f"{width} x {height} pixels", max_pixels)
    if max(width, height) > MAX_SIDE:
        raise UserError(
            where,
            f"{width} x {height} pixels",
            f"sides of at most {MAX_SIDE} pixels",
            "Cut the picture to pieces.",
        )


def _check_range(picture: Image.Image, where: str) -> None:
    """Refuses pixels whose black and white no one knows: of 32 bits, or with a sign."""
    # PIL holds 16 bits of PNG and PGM in the mode I as well, and scales those of PGM to 65535.
    wide = picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM"))
    signed = picture.format == "TIFF" and 2 in picture.tag_v2.get(339, ())
    if wide or signed:
        raise UserError(
            where,
            f"a picture of 32 bits a pixel, or of numbers with a sign (mode {picture.mode})",
            "8 or 16 bits, where 0 is black and the largest number white",
            "Scale its values and save it anew.",
        )


def _check_tiles(picture: Image.Image, where: str, max_pixels: int) -> None:
    """Bounds the work of a TIFF's tiles, each of which is decoded whole, however small the part of
    it that lies in the picture."""
    if picture.format != "TIFF" or 322 not in picture.tag_v2:
        return
    width, height = (int(picture.tag_v2.get(tag) or 1) for tag in (322, 323))
    tiles = -(-picture.width // width) * -(-picture.height // height)
    if (decoded := tiles * width * height) > max_pixels:
        raise _too_large(
            where, f"{tiles} tiles of {width} x {height}, {decoded} pixels", max_pixels
        )


def _check_strips(picture: Image.Image, content: bytes, where: str) -> None:
    """Bounds the work of JPEGs within a TIFF."""
    if picture.format == "TIFF" and "jpeg" in picture.info.get("compression", ""):
        offsets = picture.tag_v2.get(273) or picture.tag_v2.get(324) or ()
        image_bytes.scans_of_tiff(content, len(offsets), where)


def _too_large(where: str, found: str, max_pixels: int) -> UserError:
    return UserError(
        where,
        found,
        f"a picture of at most {max_pixels} pixels",
        "Shrink the picture, or raise data.max_pixels.",
    )


def _undecodable(where: str, found: str) -> UserError:
    expected = "a picture (PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP, or PPM)"
    return UserError(where, found, expected, "Replace the picture or leave it out.")
