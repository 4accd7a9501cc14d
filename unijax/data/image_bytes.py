"""The bytes of a picture before a decoder sees them: what no pixel needs is cut out of them.

A small file may ask for much work: of 97 kB for a line of 50,000,000 pixels, of 16 MB of comments
for 90 seconds. Pixels and sides are bounded in `data.images`; here are the rest of a file's wishes.
"""

import dataclasses
import itertools
import re
import struct
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from unijax.core.errors import UserError

T = TypeVar("T")

# A progressive JPEG has about ten; each goes over all of its pixels.
MAX_SCANS = 100
# Of formats that Pillow decodes in Python, a few seconds of work.
MAX_SLOW_BYTES = 8 * 2**20
# Segments of a JPEG, chunks of a PNG, blocks of a GIF: each takes a step in Python, however short.
MAX_PARTS = 2**17
# Of a PPM, which Pillow reads byte by byte up to the pixels.
_MAX_HEADER = 2**16
# EXIF and XMP are read for how a picture is turned, and are never longer where they are of use.
_MAX_METADATA = 2**18


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A picture to decode.

    Attributes:
      content: the file without what no pixel needs.
      frames: more than one, as far as can be seen here (GIF and PNG).
      bits: of a sample, where the format is PNG.
      significant: of them, the most that any sample uses, by the file's own word (PNG's sBIT).
      key: of a PNG without a palette, the samples of the colour that is transparent.
    """

    content: bytes
    frames: bool = False
    bits: int | None = None
    significant: int | None = None
    key: tuple[int, ...] | None = None


def read(content: bytes, where: str) -> Encoded:
    """Looks at the bytes of a picture, whatever they are; they may be cut short or damaged.

    Raises:
      UserError: for a file that asks for more work than a picture is worth.
    """
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(content, where)
        if content.startswith((b"GIF87a", b"GIF89a")):
            return _gif(content, where)
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content, where)
        if content.startswith((b"II", b"MM")):
            _check_directories(content, where)
        elif content[:4] == b"RIFF" or content[4:8] == b"ftyp":
            for match in itertools.islice(_EXIF.finditer(content), _MOST_EXIF):
                _check_directories(memoryview(content)[match.start(1) :], where)
    except (IndexError, struct.error):  # cut short: the decoder says so
        return Encoded(content)
    _check_slow(content, where)
    return _ppm(content, where) if _PPM.match(content) else Encoded(content)


# Of files that are no picture here, what they begin with, and where.
_KINDS = (
    (0, b"\x89PNG", "a PNG"),
    (0, b"\xff\xd8\xff", "a JPEG"),
    (0, b"GIF8", "a GIF"),
    (0, b"II*\0", "a TIFF of a kind"),
    (0, b"MM\0*", "a TIFF of a kind"),
    (0, b"BM", "a BMP"),
    (8, b"WEBP", "a WebP"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftyp", "a video"),
    (0, b"%!PS", "a PostScript program"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"qoif", "a QOI picture"),
    (0, b"BLP", "a BLP picture"),
    (0, b"<", "a page or drawing in markup (HTML, SVG)"),
    (0, b"\x1f\x8b", "a compressed file"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, in place of the file,"),
)


def kind_of(content: bytes) -> str:
    """What a file is that no decoder takes; "" where that is not known."""
    for at, prefix, name in _KINDS:
        if content[at : at + len(prefix)] == prefix:
            return name
    return ""


def scans_of_tiff(content: bytes, strips: int, where: str) -> None:
    """Raises a UserError where a TIFF's JPEG strips have more scans than MAX_SCANS."""
    _check_scans(content.count(b"\xff\xda") - strips, where)


def _png(content: bytes, where: str) -> Encoded:
    kept, frames, significant, transparent = [content[:8]], False, None, None
    bits, colour = content[24], content[25]
    for kind, start, end in _bounded(_png_chunks(content), where):
        body = content[start + 8 : end - 4]
        if kind == b"acTL":
            frames = len(body) >= 4 and struct.unpack_from(">I", body)[0] > 1
        elif kind == b"sBIT":
            significant = max(body[:3] if colour in (2, 6) else body[:1], default=None)
        elif kind == b"tRNS":
            transparent = body
        # Upper case: no picture without it. The rest are texts, profiles, times, later frames.
        wanted = kind[:1].isupper() or kind == b"tRNS" or _tells_orientation(kind, body)
        if wanted:
            kept.append(content[start:end])
    key = None
    if transparent is not None and colour in (0, 2) and len(transparent) >= 2 * (1 + colour):
        key = struct.unpack_from(">H" if colour == 0 else ">HHH", transparent)
    return Encoded(b"".join(kept), frames, bits, significant, key)


def _bounded(parts: Iterable[T], where: str) -> Iterator[T]:
    """Raises a UserError where a file has more parts than MAX_PARTS."""
    for count, part in enumerate(parts):
        if count == MAX_PARTS:
            raise UserError(
                where, f"a picture in more than {MAX_PARTS} parts", "fewer segments or chunks",
                "Save the picture anew.",
            )  # fmt: skip
        yield part


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk up to the picture's end; the last may be cut short."""
    at, kind = 8, b""
    while at + 8 <= len(content) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, at, at + 12 + length
        at += 12 + length


def _tells_orientation(kind: bytes, body: bytes) -> bool:
    if len(body) > _MAX_METADATA:
        return False
    if kind == b"eXIf":
        return _directories_are_sane(body)
    return kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0")  # not compressed


def _gif(content: bytes, where: str) -> Encoded:
    """The first frame alone."""
    count = iter(_bounded(itertools.count(), where))
    at = 13 + _colours(content[10])
    kept, images = [content[:at]], 0
    while content[at : at + 1] in (b"!", b","):
        next(count)
        if content[at] == 0x2C and images:
            return Encoded(b"".join([*kept, b";"]), frames=True)
        start = at
        if content[at] == 0x2C:
            images += 1
            at = _after_blocks(content, at + 11 + _colours(content[at + 9]), where)
            kept.append(content[start:at])
        else:
            at = _after_blocks(content, at + 2, where)
            if content[start + 1] == 0xF9 and not images:  # transparency is said there
                kept.append(content[start:at])
    return Encoded(b"".join([*kept, content[at:]]))


def _colours(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int, where: str) -> int:
    for _ in _bounded(itertools.count(), where):
        if at >= len(content) or not content[at]:
            break
        at += 1 + content[at]
    return at + 1


def _jpeg(content: bytes, where: str) -> Encoded:
    kept, at, seen = [content[:2]], 2, set()
    for marker, start, end in _bounded(_jpeg_segments(content), where):
        at = end
        name = _application(marker, content[start + 4 : end])
        if name is not None and name not in seen:
            kept.append(content[start:end])
        seen |= {name} - {""}
    rest = content[at:]
    _check_scans(_scans(rest, where), where)
    return Encoded(b"".join([*kept, rest]))


# Not those without a length: restarts, another beginning, and what is none (0, 1, 255).
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of every segment up to the first scan; the last may be cut short."""
    at = 2
    while (match := _SEGMENT.search(content, at)) and match[1] not in (b"\xda", b"\xd9"):
        start = match.start()
        at = start + 2 + struct.unpack_from(">H", content, start + 2)[0]
        yield match[1][0], start, at


# By marker, how the segments begin that say how samples become colours or how the picture stands.
_APPLICATIONS = {
    0xE0: (b"JFIF\0",),
    0xE1: (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"),
    0xEE: (b"Adobe",),
}


def _application(marker: int, body: bytes) -> bytes | str | None:
    """A name for what is kept once, "" for what is kept always, None for what goes."""
    if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
        return ""
    for prefix in _APPLICATIONS.get(marker, ()):
        if body.startswith(prefix):
            is_exif = prefix == b"Exif\0\0"
            return prefix if not is_exif or _directories_are_sane(body[6:]) else None
    return None


# Behind a byte of 255 in coded data stands 0 or the number of a restart.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")


def _scans(content: bytes, where: str) -> int:
    return sum(marker == 0xDA for marker in _bounded(_jpeg_markers(content), where))


def _jpeg_markers(content: bytes) -> Iterator[int]:
    """Those of segments from the first scan to the picture's end."""
    at = 0
    while (match := _MARKER.search(content, at)) and match[1] != b"\xd9":
        yield match[1][0]
        at = match.end()
        if at + 2 > len(content):
            break
        at += struct.unpack_from(">H", content, at)[0]


def _check_scans(scans: int, where: str) -> None:
    if scans > MAX_SCANS:
        raise UserError(
            where, f"a JPEG of {scans} scans", f"at most {MAX_SCANS}", "Save the picture anew."
        )


# In a WebP its chunk, in an AVIF its item: a length or an offset, then the header of a TIFF.
_EXIF = re.compile(rb"(?:EXIF....|\0\0\0[\0-\x0a])(?:Exif\0\0)?(?=(II\*\0|MM\0\*))", re.DOTALL)
_MOST_EXIF = 16
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_SUBDIRECTORIES = (34665, 34853, 40965)


def _check_directories(content: bytes | memoryview, where: str) -> None:
    if not _directories_are_sane(content):
        raise UserError(
            where,
            "tags of more bytes than the file has",
            "a TIFF, or EXIF, whose tags do not share their bytes",
            "Save the picture anew.",
        )


def _directories_are_sane(content: bytes | memoryview) -> bool:
    """Whether what the tags of a TIFF (or EXIF) claim could be in it. Pillow reads them all."""
    end = {b"II": "<", b"MM": ">"}.get(bytes(content[:2]))
    if end is None or len(content) < 16:
        return True  # not to be read at all: the decoder says so, or does not mind
    big = struct.unpack_from(end + "H", content, 2)[0] == 43
    count_of = struct.Struct(end + ("Q" if big else "H"))
    entry = struct.Struct(end + ("HHQQ" if big else "HHII"))
    todo = [struct.unpack_from(end + ("Q" if big else "I"), content, 8 if big else 4)[0]]
    claimed, seen = 0, set()
    while todo and len(seen) < 8:
        at = todo.pop()
        if at in seen or at + count_of.size > len(content):
            continue
        seen.add(at)
        first = at + count_of.size
        count = min(count_of.unpack_from(content, at)[0], 2**16)
        count = min(count, (len(content) - first) // entry.size)
        entries = content[first : first + count * entry.size]
        for tag, kind, number, value in entry.iter_unpack(entries):
            claimed += _SIZES.get(kind, 1) * number
            if tag in _SUBDIRECTORIES:
                todo.append(value)
    return claimed <= 2 * len(content) + 2**16


# Lengths of the header that a DIB begins with, and so its first bytes.
_DIB = tuple(struct.pack("<I", length) for length in (40, 52, 56, 64, 108, 124))


def _check_slow(content: bytes, where: str) -> None:
    plain = content[:2] in _PLAIN
    begin = 14 if content[:2] == b"BM" else 0  # of a DIB, a BMP without its first header
    is_bitmap = begin or content[:4] in _DIB
    run_lengths = is_bitmap and content[begin + 16 : begin + 17] in (b"\1", b"\2")
    if (plain or run_lengths) and len(content) > MAX_SLOW_BYTES:
        raise UserError(
            where,
            f"{len(content)} bytes of a {'PPM written as text' if plain else 'run-length BMP'}",
            f"at most {MAX_SLOW_BYTES}, as it is read slowly",
            "Save the picture as PNG.",
        )


_PPM = re.compile(rb"P[0-6fy]")
_PLAIN = (b"P1", b"P2", b"P3")  # written as text
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
_SPACE = re.compile(rb"[ \t\n\v\f\r]+")
# A magic word and numbers: width and height, and but for bitmaps the largest sample.
_HEADER = rb"P[^\s#]{1,5}+(?:(?:\s|#[^\r\n]*+[\r\n])++[^\s#]++){%d}\s"
_HEADERS = {count: re.compile(_HEADER % count) for count in (2, 3)}


def _ppm(content: bytes, where: str) -> Encoded:
    """The same picture in a form that Pillow reads quickly.

    What is written as text goes on without its comments, each of which Pillow would copy it for;
    samples whose largest is another than 255 or 65535, which it would scale in Python, are scaled.
    """
    if content[:2] in _PLAIN:
        return Encoded(_SPACE.sub(b" ", _COMMENT.sub(b"", content)))
    pattern = _HEADERS[2 if content[:2] == b"P4" else 3]
    header = pattern.match(content[:_MAX_HEADER])
    if header is None and len(content) > _MAX_HEADER:
        raise UserError(
            where, f"a PPM whose pixels do not begin within {_MAX_HEADER} bytes",
            "a width, a height and the largest sample, then pixels", "Save the picture anew.",
        )  # fmt: skip
    if header is None or content[:2] in (b"P4", b"Pf"):
        return Encoded(content)
    magic, *sizes, largest = _COMMENT.sub(b"", header[0]).split()
    largest = int(largest) if largest.isdigit() and len(largest) < 6 else 0
    white = 65535 if largest > 255 and magic == b"P5" else 255
    if not 0 < largest < 65536 or largest == white:
        return Encoded(content)
    kind = np.dtype(">u2" if largest > 255 else "u1")
    table = np.minimum(np.round(np.arange(2 ** (8 * kind.itemsize)) / largest * white), white)
    samples = np.frombuffer(
        content, kind, (len(content) - header.end()) // kind.itemsize, header.end()
    )
    scaled = table.astype(">u2" if white > 255 else "u1")[samples].tobytes()
    return Encoded(b" ".join([magic, *sizes, b"%d\n" % white]) + scaled)
