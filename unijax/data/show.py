"""Rendered and packed rows as text that a person can read. It is read back from the arrays."""

import itertools
from collections.abc import Mapping

import numpy as np

from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout
from unijax.data.assemble import RowArrays, assemble
from unijax.data.config import DataConfig, check
from unijax.data.document import ImageSpan
from unijax.data.rows import Row, RowStream
from unijax.data.sources import Records, open_sources
from unijax.data.tokenizer import Tokenizer

LEGEND = """\
»learned« (each token at the position before it); all else is given
⟨special token⟩  ⏎ line break  {image: its stream, slot and addresses}"""

_IMAGES = {"und": "images to understand", "gen": "to generate"}


def show(
    config: DataConfig,
    layout: Layout,
    tokenizer: Tokenizer,
    rows: int,
    records: Mapping[str, Records] | None = None,
) -> str:
    """The first rows of the stream, and how much of it each group has."""
    check(config, layout)
    stream = RowStream(config, layout, open_sources(config, layout, tokenizer, records))
    lines = [LEGEND]
    documents: dict[str, list[int]] = {group.name: [] for group in config.groups}
    for number in range(rows):
        row = next(stream)
        lines += ["", *show_row(row, number, stream, tokenizer)]
        for placed, (first, end) in zip(row, _bounds(_arrays(row, stream, tokenizer))):
            documents[stream.group_of(placed.source)].append(end - first)
    lines += ["", "group   documents   share   tokens   share"]
    total = [sum(len(d) for d in documents.values()), sum(sum(d) for d in documents.values())]
    for group, lengths in documents.items():
        lines.append(
            f"{group:6} {len(lengths):10} {len(lengths) / total[0]:7.1%} "
            f"{sum(lengths):8} {sum(lengths) / total[1]:7.1%}"
        )
    lines.append(f"padding {1 - total[1] / (rows * config.row_length):.1%}")
    for name, count in stream.dropped.items():
        if count:
            lines.append(f"{name}: {count} documents left out, which no row can hold")
    return "\n".join(lines)


def show_row(row: Row, number: int, stream: RowStream, tokenizer: Tokenizer) -> list[str]:
    """A row: its fill, then each document with its group, its place and its text."""
    arrays = _arrays(row, stream, tokenizer)
    used = int((arrays.kind != Kind.PAD).sum())
    length = len(arrays.kind)
    lines = [
        f"row {number}: {used} of {length} tokens ({used / length:.0%}), "
        + ", ".join(f"{len(spans)} {_IMAGES[role]}" for role, spans in _by_role(arrays, stream))
    ]
    for segment, (placed, (first, end)) in enumerate(zip(row, _bounds(arrays)), start=1):
        document = placed.document
        lines.append(
            f"  {segment}. {document.name} ({stream.group_of(placed.source)}), "
            f"at {first}..{end - 1}, {end - first} tokens, uid {document.uid}"
        )
        lines.append("     " + _text(arrays, first, end, tokenizer))
    return lines


def _by_role(arrays: RowArrays, stream: RowStream) -> list[tuple[str, list[ImageSpan]]]:
    spans = [span for images in arrays.images.values() for span in images]
    return [(role, [s for s in spans if s.role == role]) for role in stream.layout.by_role]


def _arrays(row: Row, stream: RowStream, tokenizer: Tokenizer) -> RowArrays:
    documents = [placed.document for placed in row]
    length = stream.config.row_length
    return assemble(documents, length, tokenizer.special, stream.layout)


def _bounds(arrays: RowArrays) -> list[tuple[int, int]]:
    """[first, end) of each document."""
    firsts = np.flatnonzero((arrays.position == 0) & (arrays.kind != Kind.PAD))
    ends = [*firsts[1:], int((arrays.kind != Kind.PAD).sum())]
    return [(int(first), int(end)) for first, end in zip(firsts, ends)]


def _text(arrays: RowArrays, first: int, end: int, tokenizer: Tokenizer) -> str:
    """The tokens of a document, what is learned marked."""
    kinds = arrays.kind[first:end]
    # A token is learned if the position before it answers with it.
    learned = np.concatenate([[False], arrays.target_kind[first : end - 1] != Target.NONE])
    runs = itertools.groupby(
        range(end - first), key=lambda i: (kinds[i], arrays.image[first + i], bool(learned[i]))
    )
    words = []
    for (kind, image, marked), places in runs:
        tokens = [int(arrays.tokens[first + i]) for i in places]
        if kind == Kind.TEXT:
            word = _words(tokens, tokenizer)
        else:
            stream = Kind(kind).name.lower()
            slot = tokens[0] // len(tokens)
            word = f"{{{stream} image {image}, slot {slot}: {tokens[0]}..{tokens[-1]}}}"
        words.append(f"»{word}«" if marked else word)
    return "".join(words)


def _words(tokens: list[int], tokenizer: Tokenizer) -> str:
    """Text of ids; special tokens between brackets, repeated ones counted."""
    special = set(tokenizer.tokens.values())
    words = []
    for is_special, run in itertools.groupby(tokens, key=lambda token: token in special):
        if not is_special:
            words.append(tokenizer.decode(list(run)).replace("\n", "⏎"))
            continue
        for token, repeats in itertools.groupby(run):
            name = tokenizer.piece(token).removeprefix("<").removesuffix(">")
            count = len(list(repeats))
            words.append(f"⟨{name}⟩" + (f"x{count}" if count > 1 else ""))
    return "".join(words)
