"""Pictures: decoding, and the two squares of Janus against PIL and Hugging Face's processor."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unijax.core.errors import UserError
from unijax.data import images

SIZES = st.integers(1, 90)


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, mode: str | None = None, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(buffer, form, **options)
    return buffer.getvalue()


def decode(content, max_pixels=10_000):
    return images.decode(content, "record 7", max_pixels)


def test_lossless_pictures_decode_to_their_pixels():
    array = pixels(9, 13)
    for form in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(array, form=form)), array)
    assert decode(array) is array


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (10, 20, 30, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    out = decode(encoded(rgba))
    np.testing.assert_array_equal(out[0, 0], (10, 20, 30))
    np.testing.assert_array_equal(out[0, 1], (255, 255, 255))
    np.testing.assert_array_equal(out[1, 0], (127, 127, 127))
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(decode(buffer.getvalue())[0, 0], (255, 255, 255))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = np.full((3, 5), 128, np.uint8)
    if mode == "I;16":
        content = encoded(grey.astype(np.uint16) * 257)
    else:
        content = encoded(grey, mode, "TIFF" if mode == "CMYK" else "PNG")
    out = decode(content)
    assert out.shape == (3, 5, 3)
    assert out.dtype == np.uint8
    if mode != "1":
        assert np.abs(out.astype(int) - 128).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=SIZES,
    width=SIZES,
    size=st.integers(14, 64),
    rounding=st.sampled_from(["floor", "round"]),
)
def test_understanding_keeps_the_whole_picture_in_the_middle(height, width, size, rounding):
    array = pixels(height, width)
    out = images.for_understanding(array, size, rounding)
    long = max(height, width)
    scale = int if rounding == "floor" else round
    h, w = max(scale(height / long * size), 14), max(scale(width / long * size), 14)
    expected = np.full((size, size, 3), 127, np.uint8)
    top, left = (size - h) // 2, (size - w) // 2
    resized = np.asarray(Image.fromarray(array).resize((w, h), Image.Resampling.BICUBIC))
    expected[top : top + h, left : left + w] = resized
    np.testing.assert_array_equal(out, expected)


@settings(max_examples=60, deadline=None)
@given(height=SIZES, width=SIZES, size=st.integers(1, 64))
def test_generation_fills_the_square_from_the_middle(height, width, size):
    array = pixels(height, width)
    out = images.for_generation(array, size)
    assert out.shape == (size, size, 3)
    if height == width == size:
        np.testing.assert_array_equal(out, array)
    short = min(height, width)
    if short == size:  # nothing is scaled: the crop alone
        top, left = (height - size) // 2, (width - size) // 2
        np.testing.assert_array_equal(out, array[top : top + size, left : left + size])


@pytest.mark.parametrize(("height", "width"), [(48, 31), (31, 48), (40, 40), (7, 100), (333, 500)])
def test_understanding_is_hugging_faces_processor_where_the_rounding_is(height, width):
    """The released code floors the short side, Hugging Face rounds it: 31/48 of 32 is 20 or 21."""
    module = pytest.importorskip("transformers.models.janus.image_processing_pil_janus")
    size = 32
    processor = module.JanusImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    array = pixels(height, width)
    theirs = processor(Image.fromarray(array), return_tensors="np")["pixel_values"][0]
    ours = images.for_understanding(array, size, "round").transpose(2, 0, 1) / 255.0
    np.testing.assert_allclose((ours - 0.5) / 0.5, theirs, atol=1e-6)
    floor = images.for_understanding(array, size, "floor")
    same = max(int(31 / 48 * 32), 14) == max(round(31 / 48 * 32), 14)
    if {height, width} == {31, 48}:
        assert not same
        assert (floor.transpose(2, 0, 1) / 255.0 * 2 - 1 != theirs).any()


def test_a_long_thin_picture_is_not_blown_up_before_it_is_cropped():
    """1 x 200000 pixels: resized whole, its long side would be 64 x 200000."""
    for shape in ((1, 200_000), (200_000, 1)):
        array = pixels(*shape)
        out = images.for_generation(array, 64)
        assert out.shape == (64, 64, 3)
        # The square is the middle pixel, with something of its neighbours.
        assert np.abs(out[32, 32].astype(int) - array.reshape(-1, 3)[100_000]).max() < 90
    wide = np.repeat(np.arange(2000, dtype=np.uint8)[None, :, None] // 2, 3, axis=2)
    out = images.for_generation(np.repeat(wide[:, :, :], 10, axis=0), 10)
    np.testing.assert_array_equal(out[0], wide[0, 995:1005])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_picture_from_a_phone_is_turned_as_its_orientation_says(form):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    stored = np.rot90(upright)
    out = decode(encoded(stored, form=form, exif=exif))
    assert out.shape == upright.shape
    assert np.abs(out.astype(int) - upright).max() < 40


def test_broken_exif_turns_nothing():
    array = pixels(4, 6)
    for exif in (b"Exif\0\0MM", b"Exif\0\0junk and no TIFF"):
        np.testing.assert_array_equal(decode(encoded(array, exif=exif)), array)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_32_bits_are_refused_not_made_black(dtype):
    assert "found a picture of 32 bits a pixel" in _message(
        encoded(np.eye(4, dtype=dtype), form="TIFF")
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_range_in_every_format(form):
    grey = np.array([[0, 128 * 257, 65535]], np.uint16)
    out = decode(encoded(grey, form=form))
    np.testing.assert_array_equal(out[0, :, 0], (0, 128, 255))


def _message(content, max_pixels=10_000) -> str:
    with pytest.raises(UserError) as error:
        decode(content, max_pixels)
    return str(error.value)


def test_bad_pictures_are_named():
    whole = encoded(pixels(40, 40), form="PNG")
    jpeg = encoded(pixels(40, 40), form="JPEG")
    assert _message(b"no picture").startswith("record 7: found 10 bytes that are no known picture")
    for content in (whole[: len(whole) // 2], jpeg[: len(jpeg) // 2], b"", whole[:20]):
        message = _message(content)
        assert message.startswith("record 7: found")
        assert "Replace the picture or leave it out." in message


def test_gigantic_pictures_are_refused_before_they_are_decoded():
    message = _message(encoded(pixels(40, 41)), max_pixels=1600)
    assert message == (
        "record 7: found 41 x 40 pixels; expected a picture of at most 1600 pixels. "
        "Shrink the picture, or raise data.max_pixels."
    )
    decode(encoded(pixels(40, 40)), max_pixels=1600)
    # A bomb: a header that promises 10^10 pixels, and next to no data.
    header = bytearray(encoded(pixels(1, 1)))
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    message = _message(bytes(header), 50_000_000)
    assert "10000000000 pixels" in message
    assert "Shrink the picture, or raise data.max_pixels." in message
