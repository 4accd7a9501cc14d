"""Packed rows of the measured step: real documents, packed ahead of time.

    python -m bench.device_check.rows      # writes rows.json.gz anew; wants all of unijax

The file holds what stands in every row that the loader packs for Janus-Pro's stage 3 (5 : 1 : 4 of
pictures to read, words and pictures to draw, of what is shipped): ids of texts, whether they are
learned, and where pictures stand. Pixels are noise: no time depends on them.
"""

import gzip
import json
import pathlib

import numpy as np

from unijax.core.batch import ImageSlots, PackedBatch
from unijax.core.stream import Layout
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, RowArrays, assemble
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan, document_size

FILE = pathlib.Path(__file__).with_name("rows.json.gz")
SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=3, eoi=4)
ROWS = 16  # that are kept


def stored() -> list[list[Document]]:
    """The documents of every row."""
    kept = json.loads(gzip.decompress(FILE.read_bytes()))
    return [
        [_document(f"row {i}, {j}", spans) for j, spans in enumerate(row)]
        for i, row in enumerate(kept)
    ]


def _document(name: str, spans: list) -> Document:
    return Document(name, tuple(_span(span, f"{name}, {n}") for n, span in enumerate(spans)))


def _span(span: list, name: str) -> TextSpan | ImageSpan:
    if len(span) == 1:
        return ImageSpan(span[0], ImageRef(name, b""))
    ids, learned = span
    return TextSpan(tuple(ids), tuple(map(float, learned)))


def shortened(rows: list[list[Document]], layout: Layout, length: int, vocabulary: int):
    """The same kinds of documents in rows of `length` tokens: a rehearsal's.

    Texts keep eight ids, of a small vocabulary; documents that do not fit are left out.
    """
    out = []
    for row in rows:
        kept, used = [], 0
        for document in row:
            spans = [
                TextSpan(tuple(5 + x % (vocabulary - 5) for x in s.ids[-8:]), s.weights[-8:])
                if isinstance(s, TextSpan)
                else s
                for s in document.spans
            ]
            short = Document(document.name, tuple(spans))
            size = document_size(short, layout).tokens
            if used + size <= length:
                kept.append(short)
                used += size
        out.append(kept)
    return out


def batch(
    rows: list[list[Document]], layout: Layout, length: int, slots: dict[str, int]
) -> PackedBatch:
    """Arrays on the host.

    Args:
      slots: pictures of a row, by array of slots.
    """
    arrays = [assemble(documents, length, SPECIAL, layout) for documents in rows]
    fields = {name: np.stack([getattr(row, name) for row in arrays]) for name in FIELDS}
    images = {name: _slots(name, arrays, layout, count) for name, count in slots.items()}
    return PackedBatch(**fields, images=images)


def _slots(name: str, rows: list[RowArrays], layout: Layout, count: int) -> ImageSlots:
    size = layout.of_slots(name).size
    weight = np.zeros((len(rows), count), np.float32)
    for i, row in enumerate(rows):
        weight[i, : len(row.images[name])] = 1
    pixels = np.random.default_rng(0).integers(0, 256, (*weight.shape, size, size, 3), np.uint8)
    seed = np.arange(weight.size, dtype=np.uint32).reshape(weight.shape)
    noised = weight if layout.has_noise(name) else None
    return ImageSlots(weight=weight, seed=seed, pixels=pixels, t_max=noised)


def prompts(layout: Layout, count: int, length: int, vocabulary: int) -> PackedBatch:
    """Texts of `length` tokens before an answer or a picture, one a row."""
    ids = np.random.default_rng(1).integers(5, vocabulary, (count, length - layout.begins))
    texts = [TextSpan(tuple(map(int, row)), (0.0,) * len(row)) for row in ids]
    return batch([[Document("prompt", (text,))] for text in texts], layout, length, {})


def main() -> None:
    from bench.train_step import CONFIG, with_shipped_data
    from unijax.data.rows import RowStream
    from unijax.data.sources import open_sources
    from unijax.data.tokenizer import load as load_tokenizer
    from unijax.main import config as config_lib
    from unijax.main.run import make_system, resolve

    run = with_shipped_data(resolve(config_lib.load(CONFIG)))
    layout = make_system(run).layout
    sources = open_sources(run.data, layout, load_tokenizer(run.tokenizer))
    stream = RowStream(run.data, layout, sources)
    rows = [
        [
            [
                [span.ids, [int(w) for w in span.weights]]
                if isinstance(span, TextSpan)
                else [span.role]
                for span in placed.document.spans
            ]
            for placed in next(stream)
        ]
        for _ in range(ROWS)
    ]
    FILE.write_bytes(gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    main()
