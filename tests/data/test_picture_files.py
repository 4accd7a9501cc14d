"""Pictures as files bring them: many bits a sample, transparency, metadata, hostile wishes."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_images import decode, encoded, pixels
from unijax.core import telling
from unijax.core.errors import UserError
from unijax.data import image_bytes, images


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def png(samples, colour: int, bits: int, *extra: tuple[bytes, bytes], behind=()) -> bytes:
    """A PNG written here, of any depth, with extra chunks."""
    samples = np.asarray(samples)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        each = samples[..., None] >> np.arange(bits - 1, -1, -1) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in each]
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), *behind, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def tiff(samples, photometric: int, order="<", deflated=False, bits=16, **tags) -> bytes:
    """A TIFF written here, of 16 bits a sample in one strip."""
    samples = np.asarray(samples)
    data = samples.astype(order + "u2").tobytes()
    data = zlib.compress(data) if deflated else data
    channels = samples.shape[2] if samples.ndim == 3 else 1
    codes = {"extra": 338, "orientation": 274, "format": 339, "planes": 284, "tile_width": 322,
             "tile_height": 323}  # fmt: skip
    entries = {
        256: (4, [samples.shape[1]]), 257: (4, [len(samples)]), 258: (3, [bits] * channels),
        259: (3, [8 if deflated else 1]), 262: (3, [photometric]), 273: (4, [8]),
        277: (3, [channels]), 278: (4, [len(samples)]), 279: (4, [len(data)]), 284: (3, [1]),
    } | {codes[name]: (3, [value]) for name, value in tags.items()}  # fmt: skip
    start = 8 + len(data)
    blobs, directory = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for code, (kind, values) in sorted(entries.items()):
        raw = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(raw) > 4:
            raw, blobs = struct.pack(order + "I", after + len(blobs)), blobs + raw
        directory += struct.pack(order + "HHI", code, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(entries)) + directory + bytes(4) + blobs


def message(content: bytes, max_pixels=50_000_000) -> str:
    with pytest.raises(UserError) as error:
        decode(content, max_pixels)
    assert str(error.value).startswith("record 7: found ")
    return str(error.value)


# More than 8 bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    "form",
    ["png grey", "png rgb", "png rgba", "png grey alpha", "tiff grey", "tiff rgb",
     "tiff rgb of Motorola", "tiff rgb deflated"],
)  # fmt: skip
def test_samples_of_fewer_bits_in_files_of_16_are_not_made_black(bits, form):
    white = 2**bits - 1
    grey = np.array([[0, white // 3, white // 2, white]])
    rgb, alpha = np.stack([grey, grey[:, ::-1], grey * 0], axis=2), np.full((1, 4, 1), white)
    content = {
        "png grey": lambda: png(grey, GREY, 16),
        "png rgb": lambda: png(rgb, RGB, 16),
        "png rgba": lambda: png(np.concatenate([rgb, alpha], 2), RGBA, 16),
        "png grey alpha": lambda: png(np.concatenate([grey[..., None], alpha], 2), GREY_ALPHA, 16),
        "tiff grey": lambda: tiff(grey, 1),
        "tiff rgb": lambda: tiff(rgb, 2),
        "tiff rgb of Motorola": lambda: tiff(rgb, 2, ">"),
        "tiff rgb deflated": lambda: tiff(rgb, 2, deflated=True),
    }[form]()
    out = decode(content).astype(int)
    expected = np.stack([grey] * 3, axis=2) if "grey" in form else rgb
    assert np.abs(out - np.round(expected * 255 / white)).max() <= 1  # alpha is laid on in bytes


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 255), st.integers(1, 6))
def test_dark_pictures_of_8_bits_that_were_spread_over_16_stay_dark(grey, width):
    samples = np.full((2, width), grey)
    np.testing.assert_array_equal(decode(png(samples * 257, GREY, 16))[..., 0], samples)


def test_a_file_that_says_how_many_bits_matter_is_believed():
    dark = [[0, 900, 30]]
    assert decode(png(dark, GREY, 16, (b"sBIT", bytes([16])))).max() == 4
    assert decode(png(dark, GREY, 16, (b"sBIT", bytes([12])))).max() == 56
    assert decode(png(dark, GREY, 16)).max() == 224  # without a word: ten bits are enough for 900
    left = [[0, 4095 << 4]]  # as the format wants 12 bits: at the upper end of 16
    assert decode(png(left, GREY, 16, (b"sBIT", bytes([12])))).max() == 255
    packed = np.array([0, 2048, 4095, 0], np.uint16)
    two = packed.reshape(-1, 2)
    twelve = np.stack([two[:, 0] >> 4, (two[:, 0] & 15) << 4 | two[:, 1] >> 8, two[:, 1] & 255], 1)
    content = tiff(np.zeros((1, 4), int), 1, bits=12)
    content = content[:8] + twelve.astype(np.uint8).tobytes() + content[14:]
    np.testing.assert_array_equal(decode(content)[0, :, 0], (0, 128, 255, 0))


def test_that_bits_were_guessed_is_said_once(capsys, monkeypatch):
    monkeypatch.setattr(telling, "_told", set())
    for _ in range(2):
        decode(png([[0, 4000]], GREY, 16))
    assert capsys.readouterr().err == (
        "record 7: a picture of 16 bits without a number above 4000 is read as one of 12 bits, and "
        "so are others like it\n"
    )


def test_a_tiff_of_16_bits_whose_white_is_zero_is_no_negative():
    grey = np.array([[0, 128 * 257, 65535]])
    np.testing.assert_array_equal(decode(tiff(grey, 0))[0, :, 0], (255, 127, 0))
    np.testing.assert_array_equal(decode(tiff(grey, 0, deflated=True))[0, :, 0], (255, 127, 0))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflated", [False, True])
def test_alpha_of_16_bits_is_laid_on_white(order, deflated):
    half = [[[65535, 0, 0, 32768], [0, 0, 0, 0]]]
    out = decode(tiff(half, 2, order, deflated, extra=2))
    np.testing.assert_array_equal(out[0], [(255, 127, 127), (255, 255, 255)])
    multiplied = [[[32768, 0, 0, 32768], [0, 0, 0, 0]]]
    out = decode(tiff(multiplied, 2, order, deflated, extra=1))
    np.testing.assert_array_equal(out[0], [(255, 127, 127), (255, 255, 255)])
    unused = decode(tiff(half, 2, order, deflated, extra=0))
    np.testing.assert_array_equal(unused[0], [(255, 0, 0), (0, 0, 0)])
    inks = decode(tiff([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535]]], 5, order, deflated))
    np.testing.assert_array_equal(inks[0], [(255, 255, 255), (0, 255, 255), (0, 0, 0)])


def test_numbers_whose_white_nobody_knows_are_told():
    assert "of numbers with a sign" in message(tiff([[0, 9]], 1, format=2))
    assert "colours lie apart (planar)" in message(tiff([[[1, 2, 3]]], 2, planes=2))
    for dtype in (np.float16, np.float64):
        floats = bytearray(tiff([[0, 9]], 1, format=3, bits=np.dtype(dtype).itemsize * 8))
        assert "found a TIFF of a kind that cannot be read" in message(bytes(floats))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_once(orientation):
    colours = np.arange(2 * 3 * 3).reshape(2, 3, 3) * 3855
    eight = (colours // 257).astype(np.uint8)
    expected = decode(encoded(eight, form="TIFF", tiffinfo={274: orientation}))
    np.testing.assert_array_equal(decode(tiff(colours, 2, orientation=orientation)), expected)
    grey = colours[..., 0]
    turned = decode(tiff(grey, 1, orientation=orientation))
    np.testing.assert_array_equal(turned[..., 0], expected[..., 0])
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(
        decode(png(colours, RGB, 16, (b"eXIf", exif.tobytes()[6:]))), expected
    )


# Transparency


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_any_depth_is_laid_on_white(bits):
    most = 2**bits - 1
    grey = np.array([[0, most // 2, most, 1]])
    for key in {0, most // 2, most}:
        out = decode(png(grey, GREY, bits, (b"tRNS", struct.pack(">H", key))))[0, :, 0]
        expected = np.where(grey[0] == key, 255, np.round(grey[0] * (255 / most)))
        assert np.abs(out - expected).max() <= 1, key


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_colour_is_laid_on_white(bits):
    scale = 257 if bits == 16 else 1
    rgb = np.array([[[10, 20, 30], [10, 20, 31], [200, 0, 0]]])
    key = struct.pack(">HHH", *(10 * scale, 20 * scale, 30 * scale))
    out = decode(png(rgb * scale, RGB, bits, (b"tRNS", key)))
    np.testing.assert_array_equal(out[0], [(255, 255, 255), (10, 20, 31), (200, 0, 0)])


def test_palettes_are_transparent_by_entry():
    colours, alpha = bytes([1, 2, 3, 4, 5, 6, 7, 8, 9]), bytes([255, 0, 128])
    out = decode(png([[0, 1, 2]], PALETTE, 2, (b"PLTE", colours), (b"tRNS", alpha)))
    np.testing.assert_array_equal(out[0, :2], [(1, 2, 3), (255, 255, 255)])
    assert np.abs(out[0, 2].astype(int) - (131, 131, 132)).max() <= 1


def test_large_transparent_pictures_are_laid_on_white_in_strips(monkeypatch):
    rgba = np.random.default_rng(0).integers(0, 256, (37, 20, 4), dtype=np.uint8)
    whole = decode(encoded(rgba))
    monkeypatch.setattr(images, "_STRIP", 64)
    np.testing.assert_array_equal(decode(encoded(rgba)), whole)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_become_the_colours_that_they_print(form):
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:32, 0] = inks[:, 32:48, 3] = inks[:, 48:, 1] = 255
    picture = Image.frombytes("CMYK", (64, 16), inks.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=100)
    out = decode(buffer.getvalue()).astype(int)
    printed = [(255, 255, 255), (0, 255, 255), (0, 0, 0), (255, 0, 255)]
    for at, colour in zip((8, 24, 40, 56), printed):
        assert np.abs(out[8, at] - colour).max() <= 6


# What no pixel needs


def test_long_texts_and_profiles_keep_no_picture_from_being_read():
    array = pixels(3, 4)
    long = b"x" * 3_000_000
    inflated = zlib.compress(bytes(5_000_000))
    for extra in (
        (b"tEXt", b"a\0" + long), (b"zTXt", b"a\0\0" + inflated), (b"iCCP", b"a\0\0" + inflated),
        (b"iTXt", b"a\0\1\0\0\0" + inflated), (b"iCCP", b"damaged"), (b"eXIf", b"II*\0junk"),
    ):  # fmt: skip
        for content in (png(array, RGB, 8, extra), png(array, RGB, 8, behind=[extra])):
            np.testing.assert_array_equal(decode(content), array)
    jpeg = encoded(array, form="JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", 65533) + bytes(65531)
    np.testing.assert_array_equal(decode(jpeg[:2] + segment * 40 + jpeg[2:]), decode(jpeg))
    gif = encoded(array[..., 0], form="GIF")
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 20_000 + b"\0"
    at = gif.index(b",", 13)
    np.testing.assert_array_equal(decode(gif[:at] + comment + gif[at:]), decode(gif))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_damaged_elsewhere_still_turns(form):
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, :16] = 255
    head = b"Exif\0\0II*\0\x08\0\0\0\x02\0"
    turn = struct.pack("<HHII", 274, 3, 1, 6)
    broken = struct.pack("<HHII", 34853, 4, 1, 4_000_000)
    content = encoded(np.rot90(array), form=form, exif=head + turn + broken + bytes(4))
    assert np.abs(decode(content).astype(int) - array).max() < 40


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_frames_the_first_is_read_and_that_is_said_once(form, capsys, monkeypatch):
    monkeypatch.setattr(telling, "_told", set())
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=[second], lossless=True)
    for _ in range(2):
        assert np.abs(decode(buffer.getvalue()).astype(int) - (255, 0, 0)).max() < 6
    assert capsys.readouterr().err == ("record 7: of several frames or pages the first is read\n")


# What is refused, and at what price


def test_programs_are_never_run(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: pytest.fail("it ran"))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "EPS")
    assert "found a PostScript program that cannot be read" in message(buffer.getvalue())


@pytest.mark.parametrize("form", ["QOI", "BLP", "TGA", "PCX", "DDS", "ICNS"])
def test_formats_that_are_not_listed_are_refused_by_name_or_as_unknown(form):
    buffer = io.BytesIO()
    Image.new("P" if form == "BLP" else "RGB", (32, 32)).save(buffer, form)
    assert "expected a picture (PNG, JPEG, WebP, AVIF" in message(buffer.getvalue())


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>", "a page or drawing in markup"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC picture"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"\x1f\x8b" + bytes(20), "a compressed file"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(content, kind):
    assert f"found {kind}" in message(content)


def mutated(content: bytes, changes) -> bytes:
    out = bytearray(content)
    for at, value in changes:
        out[at % len(out)] = value
    return bytes(out)


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12)


@pytest.mark.parametrize("form", [form for form in images.FORMATS if form != "DIB"])
@settings(max_examples=40, deadline=None)
@given(changes=CHANGES, cut=st.floats(0, 1))
def test_damaged_pictures_are_told_or_read(form, changes, cut):
    whole = encoded(pixels(12, 20), form=form)
    for content in (mutated(whole, changes), whole[: int(cut * len(whole))]):
        try:
            assert decode(content).dtype == np.uint8
        except UserError as told:
            found = told
            assert found.where == "record 7"


def test_a_line_of_pixels_is_refused_before_it_is_decoded():
    header = struct.pack(">IIBBBBB", 1, 50_000_000, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    whole = b"\x89PNG\r\n\x1a\n" + chunks
    assert "found 1 x 50000000 pixels; expected sides of at most 65535" in message(whole)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded():
    jpeg = encoded(pixels(16, 16), form="JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    np.testing.assert_array_equal(decode(jpeg[:-2] + scan * 50 + jpeg[-2:]).shape, (16, 16, 3))
    many = jpeg[:-2] + scan * 2000 + jpeg[-2:]
    assert f"found a JPEG of 20{jpeg.count(bytes([255, 218])):02d} scans" in message(many)
    assert "scans" in message(many[:2] + b"junk" + many[2:])
    inside = encoded(pixels(16, 16), form="TIFF", compression="jpeg")
    assert "scans" in message(inside + b"\xff\xda" * 200)
    # A second picture behind the first (a camera's preview) has scans of its own.
    np.testing.assert_array_equal(decode(jpeg + jpeg * 30), decode(jpeg))


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "WEBP"])
def test_tags_that_share_their_bytes_are_not_read(form):
    count, body = 20_000, bytes(100_000)
    entries = b"".join(struct.pack("<HHII", 1000 + i, 1, len(body), 8) for i in range(count))
    tags = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", count) + entries
    if form != "TIFF":
        tags = encoded(pixels(8, 8), form=form, exif=b"Exif\0\0" + tags)
    tracemalloc.start()
    assert "found tags of more bytes than the file has" in message(tags)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # not the 2 GB that the tags claim
    tracemalloc.stop()


def test_pictures_that_are_decoded_in_python_are_small():
    small = b"P3 2 1 255 255 0 0 0 255 0"
    np.testing.assert_array_equal(decode(small)[0], [(255, 0, 0), (0, 255, 0)])
    large = small + b" " * image_bytes.MAX_SLOW_BYTES
    assert "of a PPM written as text; expected at most 8388608" in message(large)
    dib = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, 0, 0, 0, 256, 256) + bytes(1024)
    assert "of a run-length BMP" in message(dib + bytes(image_bytes.MAX_SLOW_BYTES))


def test_a_file_of_a_hundred_thousand_parts_is_refused():
    """Each part is a step in Python: 20 MB of empty comments took 9 s, a million palettes 5 s."""
    jpeg, png = encoded(pixels(8, 8), form="JPEG"), encoded(pixels(8, 8))
    gif = encoded(pixels(8, 8), form="GIF")
    table = 13 + (3 << (gif[10] & 7) + 1)  # where the table of colours ends
    many, chunk = image_bytes.MAX_PARTS + 1, struct.pack(">I4sI", 0, b"teXt", 0)
    scan = jpeg.index(b"\xff\xda")
    inside = {
        "before the scan": jpeg[:2] + b"\xff\xfe\0\2" * many + jpeg[2:],
        "behind the scan": jpeg[:-2] + b"\xff\xfe\0\2" * many + jpeg[-2:],
        "chunks": png[:33] + chunk * many + png[33:],
        "extensions": gif[:table] + b"!\xfe\0" * many + gif[table:],
        "blocks": gif[:table] + b"!\xfe" + b"\1x" * many + b"\0" + gif[table:],
    }
    for name, content in inside.items():
        assert f"more than {image_bytes.MAX_PARTS} parts" in message(content), name
    # What fills up and has no length is passed over at once.
    filled = jpeg[:scan] + b"\xff" * 10**5 + b"\xff\0" * 10**5 + jpeg[scan:]
    np.testing.assert_array_equal(decode(filled), decode(jpeg))


def test_a_ppm_of_comments_is_read_at_once_or_refused():
    """8 MB of comments, or 50 MB of spaces before the pixels, took more than a minute."""
    comments = b"#x\n" * 10**6
    text = decode(b"P3\n" + comments + b"2 1 # wide\n255 255 0 0 " + comments + b" 0 255 0")
    np.testing.assert_array_equal(text[0], [(255, 0, 0), (0, 255, 0)])
    for header in (b"P6" + b" " * 10**5, b"P6 #" + b"x" * 10**5 + b"\n", b"P4 " + comments):
        assert "do not begin within 65536 bytes" in message(header + b"2 1 255\n" + bytes(6))
    binary = decode(b"P6 # a\n2 # b\r1\t255\n" + bytes([255, 0, 0, 0, 255, 0]))
    np.testing.assert_array_equal(binary, text)


@pytest.mark.parametrize("largest", [1, 3, 100, 254, 256, 1000, 65534, 65535])
@pytest.mark.parametrize("magic", ["P5", "P6"])
def test_samples_of_any_largest_value_are_scaled_as_pillow_does_but_not_one_by_one(magic, largest):
    """16 million of them took more than a minute."""
    kind = ">u2" if largest > 255 else "u1"
    count = 1 if magic == "P5" else 3
    samples = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (5, 4, count))
    content = f"{magic}\n4 5 {largest}\n".encode() + samples.astype(kind).tobytes()
    with Image.open(io.BytesIO(content)) as theirs:
        wanted = np.asarray(theirs)
    with Image.open(io.BytesIO(image_bytes.read(content, "a").content)) as ours:
        assert ours.tile[0].codec_name == "raw"
        np.testing.assert_array_equal(np.asarray(ours), wanted)


def test_a_tiff_of_tiles_far_larger_than_it_is_refused():
    """262 kB of 64 tiles of 16 x 16 million took 19 s and 2.3 GB."""
    content = tiff([[0, 9]], 1, tile_width=65520, tile_height=32736)
    assert "1 tiles of 65520 x 32736, 2144862720 pixels; expected a picture of at" in message(
        content
    )


def test_jpeg_2000_is_refused():
    """Blocks of 4 x 4 in precincts of 8 x 8 took 5.6 GB of a file of 7 MB."""
    content = encoded(np.zeros((16, 16, 3), np.uint8), form="JPEG2000")
    assert "expected a picture (PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP, or PPM)" in message(content)
