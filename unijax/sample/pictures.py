"""Pictures on disk: PNG files, and a grid with its prompts."""

import io
import pathlib
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from unijax.core.files import write_file

# Latin, Greek, Cyrillic and more; PIL's own font has ASCII alone.
_FONT = str(pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
_MARGIN = 8  # pixels around pictures
_LINES = 3  # of a caption, at most


def save_png(path: pathlib.Path, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes the file whole or not at all; raises UserError where it cannot."""
    write_file(path, png(pixels))


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def file_name(number: int, prompt: str, copy: int) -> str:
    """`003-a-red-fox-0.png`: of one picture of a prompt, both counted from 0."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return "-".join(part for part in (f"{number:03}", words, f"{copy}") if part) + ".png"


def save_all(
    folder: pathlib.Path,
    pictures: UInt8[np.ndarray, "prompts n height width 3"],
    prompts: Sequence[str],
) -> list[pathlib.Path]:
    """Writes `000-words-of-the-prompt-0.png`, ..., then `grid.png`; returns their paths."""
    paths = []
    for i, (row, prompt) in enumerate(zip(pictures, prompts)):
        for j, pixels in enumerate(row):
            paths.append(folder / file_name(i, prompt, j))
            save_png(paths[-1], pixels)
    paths.append(folder / "grid.png")
    save_png(paths[-1], grid(pictures, prompts))
    return paths


def grid(
    pictures: UInt8[np.ndarray, "prompts n height width 3"],
    captions: Sequence[str],
    columns: int = 0,
    side: int = 128,
) -> UInt8[np.ndarray, "H W 3"]:
    """The pictures of each prompt in a row, its caption below.

    Args:
      columns: prompts beside each other; 0 makes the grid about square.
      side: pictures smaller than this are shown larger, by a whole factor.
    """
    count, n, height, width, _ = pictures.shape
    assert len(captions) == count, (len(captions), count)
    factor = max(1, side // max(height, width))
    height, width = height * factor, width * factor
    font = ImageFont.truetype(_FONT, 12)
    line = sum(font.getmetrics()) + 1
    cell_width = n * (width + _MARGIN) + _MARGIN
    wrapped = [_wrap(c, font, cell_width - 2 * _MARGIN) for c in captions]
    cell_height = height + 2 * _MARGIN + line * max(len(lines) for lines in wrapped)
    columns = columns or max(1, round((count * cell_height / cell_width) ** 0.5))
    rows = -(-count // columns)
    page = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    pen = ImageDraw.Draw(page)
    for i, (drawn, lines) in enumerate(zip(pictures, wrapped)):
        left, top = i % columns * cell_width + _MARGIN, i // columns * cell_height + _MARGIN
        for j, pixels in enumerate(drawn):
            large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
            page.paste(Image.fromarray(large), (left + j * (width + _MARGIN), top))
        for k, words in enumerate(lines):
            pen.text((left, top + height + 2 + k * line), words, fill="black", font=font)
    return np.asarray(page)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit in `width` pixels, the last one cut where there are too many."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:_LINES]
    kept[-1] += " …" * (len(lines) > _LINES)
    return [_cut(words, font, width) for words in kept]


def _cut(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"
