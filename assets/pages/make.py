"""Remakes assets/pages from a public package: scikit-image's documentation, text and pictures.

    python assets/pages/make.py

Debian package python-skimage-doc: its gallery of examples and user guide. A page is a section or
two in document order. Code, tables and formulas are left out; wide figures are cut into their
panels, and all are made small. Examples that use photographs without a stated free licence are left
out.
"""

import io
import json
import re
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from unijax.data.builders.packages import unpack_apt
from unijax.data.builders.shards import split_of, write_shards

PACKAGE = ("python-skimage-doc", "0.19.3-8")
LONG_SIDE, QUALITY = 96, 80
PAGE_CHARACTERS, PAGE_FIGURES = 1500, 3
GUTTER, PANEL = 0.025, 0.12  # share of a figure's width: white between panels, least panel
SHARDS = 1

# Data whose licence the package's documentation does not state to be free.
UNCLEAR = re.compile(
    r"\b(lfw_subset|stereo_motorcycle|brain|cells3d|nickel_solidification|protein_transport|moon|"
    r"page|download_all)\b\s*\("
)
BLOCKS = {"p", "h1", "h2", "h3", "li", "dt", "dd", "figcaption"}
SKIPPED = {"pre", "script", "style", "table", "svg", "form"}
SKIPPED_CLASSES = {
    "sphx-glr-download-link-note", "sphx-glr-timing", "sphx-glr-footer", "sphx-glr-signature",
    "sphx-glr-thumbcontainer", "sphx-glr-thumbnails", "headerlink", "math", "toctree-wrapper",
    "contents", "sphx-glr-script-out", "navbar", "footer", "footnote", "citation", "label",
    "footnote-reference", "citation-reference",
}  # fmt: skip
VOID = {"img", "br", "hr", "input", "meta", "link", "col", "source"}


class Blocks(HTMLParser):
    """Collects ('heading' | 'text', words) and ('image', path) of the body in document order."""

    def __init__(self):
        super().__init__()
        self.blocks, self.stack, self.words, self.heading = [], [], [], False

    def flush(self) -> None:
        text = re.sub(r"\s+", " ", "".join(self.words)).strip()
        if text and text != "References":
            self.blocks.append(("heading" if self.heading else "text", text))
        self.words, self.heading = [], False

    def handle_starttag(self, tag: str, attributes: list) -> None:
        attributes = dict(attributes)
        classes = set((attributes.get("class") or "").split())
        hidden = tag in SKIPPED or bool(classes & SKIPPED_CLASSES)
        hidden = hidden or bool(self.stack and self.stack[-1][1])
        main = attributes.get("role") == "main" or bool(self.stack and self.stack[-1][2])
        if tag in BLOCKS:
            self.flush()
            self.heading = tag in ("h1", "h2", "h3")
        if tag == "img" and main and not hidden:
            self.flush()
            self.blocks.append(("image", attributes["src"]))
        if tag not in VOID:
            self.stack.append((tag, hidden, main))

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.flush()
        if any(tag == name for name, _, _ in self.stack):  # a stray closing tag closes nothing
            while self.stack.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1][2] and not self.stack[-1][1]:
            self.words.append(data)


def cut(blocks: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Cuts a document into pages: at a heading once there is enough, or where a page is full."""
    pages, page, size, pictures = [], [], 0, 0
    for kind, value in blocks:
        enough = kind == "heading" and pictures and size > 300
        full = kind != "image" and size + len(value) > PAGE_CHARACTERS
        if page and (enough or full or pictures == PAGE_FIGURES):
            pages.append(page)
            page, size, pictures = [], 0, 0
        page.append((kind, value))
        size += len(value) if kind != "image" else 0
        pictures += kind == "image"
    return [*pages, page]


def parts(page: list[tuple[str, str]], panels: dict[str, list[str]]) -> list[dict]:
    """Neighbouring texts joined by blank lines; a figure as the names of its panels."""
    joined = []
    for kind, value in page:
        if kind == "image":
            joined += [{"image": name} for name in panels[value]]
        elif joined and "text" in joined[-1]:
            joined[-1]["text"] += "\n\n" + value
        else:
            joined.append({"text": value})
    return joined


def columns(figure: Image.Image) -> list[Image.Image]:
    """A wide figure cut at its white gutters into two to four panels; any other as it is."""
    inked = (np.asarray(figure) < 250).any(axis=(0, 2))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inked, [0]])))
    runs = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] < GUTTER * figure.width:
            runs[-1][1] = stop
        else:
            runs.append([start, stop])
    runs = [run for run in runs if run[1] - run[0] > PANEL * figure.width]
    if figure.width < 1.6 * figure.height or not 2 <= len(runs) <= 4:
        return [figure]
    return [figure.crop((start, 0, stop, figure.height)) for start, stop in runs]


def trim(picture: Image.Image) -> Image.Image:
    """The picture without its white margin."""
    white = Image.new("RGB", picture.size, "white")
    return picture.crop(ImageChops.difference(picture, white).getbbox())


def encode(path: Path) -> dict[str, bytes]:
    """The panels of a figure, at most 96 px long each: file name -> WebP."""
    rgba = Image.open(path).convert("RGBA")
    figure = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    files = {}
    for i, panel in enumerate(columns(trim(figure))):
        panel = trim(panel)
        panel.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        panel.save(out, "WEBP", quality=QUALITY, method=6)
        files[f"{path.stem.removeprefix('sphx_glr_')}-{i}.webp"] = out.getvalue()
    return files


def is_kept(path: Path) -> bool:
    """Examples and guide, without indexes and without pictures of unclear licence."""
    words = re.sub(r"<[^>]+>", "", path.read_text())
    return path.name != "index.html" and not UNCLEAR.search(words)


def read_pages(path: Path) -> Iterator[list[tuple[str, str]]]:
    """The pages of a document that have a picture and some text."""
    parser = Blocks()
    parser.feed(path.read_text())
    found = [
        (kind, value.replace("\\(", "").replace("\\)", ""))
        for kind, value in parser.blocks
        if kind != "image" or (path.parent / value).suffix in (".png", ".jpg")
    ]
    for page in cut(found):
        words = sum(len(value) for kind, value in page if kind != "image")
        if words >= 80 and any(kind == "image" for kind, _ in page):
            yield page


def pictures(record: dict) -> list[str]:
    return [part["image"] for part in record["parts"] if "image" in part]


def main() -> None:
    records, files, documents = [], {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        root = unpack_apt(*PACKAGE, Path(temporary)) / "usr/share/doc/python-skimage-doc/html"
        for path in sorted([*root.glob("auto_examples/*/*.html"), *root.glob("user_guide/*.html")]):
            for i, page in enumerate(read_pages(path) if is_kept(path) else ()):
                panels = {}
                for figure in (value for kind, value in page if kind == "image"):
                    encoded = encode(path.parent / figure)
                    panels[figure] = list(encoded)
                    files |= encoded
                    documents.setdefault(Path(figure).name, set()).add(path.stem)
                record = {"id": f"{path.stem}-{i}", "parts": parts(page, panels)}
                records.append({**record, "split": split_of(path.stem, 0.1)})
    shared = set().union(*(names for names in documents.values() if len(names) > 1))
    for record in records:  # documents that share a picture stay together
        if record["id"].rsplit("-", 1)[0] in shared:
            record["split"] = "train"
    source = f"Debian {PACKAGE[0]} {PACKAGE[1]}"
    folder = Path(__file__).parent
    manifest = write_shards(folder, records, files, pictures, SHARDS, [source])
    print(json.dumps(manifest, indent=1), len(files), "pictures")


if __name__ == "__main__":
    main()
