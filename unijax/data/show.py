"""Rendered and packed rows as text that a person can read. It is read back from the arrays."""

import itertools
from collections.abc import Mapping

import numpy as np

from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout, Stream
from unijax.data.assemble import RowArrays, assemble
from unijax.data.config import DataConfig, check
from unijax.data.document import ImageSpan
from unijax.data.rows import Row, RowStream
from unijax.data.sources import Records, open_sources
from unijax.data.tokenizer import Tokenizer

LEGEND = """\
»learned« (each token at the position before it, noise at its own); all else is given
⟨special token⟩  ⏎ line break  {image: its role, slot and addresses}"""


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
    roles = [s.role for d in row for s in d.document.spans if isinstance(s, ImageSpan)]
    used = int((arrays.kind != Kind.PAD).sum())
    length = len(arrays.kind)
    fill = f"row {number}: {used} of {length} tokens ({used / length:.0%})"
    images = [f"{roles.count(role)} {role}" for role in stream.layout.by_role]
    lines = [f"{fill}, images: {', '.join(images)}" if images else fill]
    streams = [stream.layout.by_role[role] for role in roles]
    for segment, (placed, (first, end)) in enumerate(zip(row, _bounds(arrays)), start=1):
        document = placed.document
        lines.append(
            f"  {segment}. {document.name} ({stream.group_of(placed.source)}), "
            f"at {first}..{end - 1}, {end - first} tokens, uid {document.uid}"
        )
        lines.append("     " + _text(arrays, first, end, streams, tokenizer))
    return lines


def _arrays(row: Row, stream: RowStream, tokenizer: Tokenizer) -> RowArrays:
    documents = [placed.document for placed in row]
    length = stream.config.row_length
    return assemble(documents, length, tokenizer.special, stream.layout)


def _bounds(arrays: RowArrays) -> list[tuple[int, int]]:
    """[first, end) of each document."""
    firsts = np.flatnonzero((arrays.position == 0) & (arrays.kind != Kind.PAD))
    ends = [*firsts[1:], int((arrays.kind != Kind.PAD).sum())]
    return [(int(first), int(end)) for first, end in zip(firsts, ends)]


def _text(
    arrays: RowArrays, first: int, end: int, streams: list[Stream], tokenizer: Tokenizer
) -> str:
    """The tokens of a document, what is learned marked; `streams` are of the row's images."""
    kinds, targets = arrays.kind[first:end], arrays.target_kind[first:end]
    # A position answers with the token behind it, and of noise with its own.
    answers = np.flatnonzero(targets != Target.NONE)
    learned = np.isin(np.arange(end - first), answers + (targets[answers] != Target.NOISE))
    runs = itertools.groupby(
        range(end - first), key=lambda i: (kinds[i], arrays.image[first + i], bool(learned[i]))
    )
    words = []
    for (kind, image, marked), places in runs:
        tokens = [int(arrays.tokens[first + i]) for i in places]
        if kind == Kind.TEXT:
            word = _words(tokens, tokenizer)
        else:
            stream = streams[image - 1]
            slot = tokens[0] // stream.tokens
            word = f"{{{stream.role} image {image}, slot {slot}: {tokens[0]}..{tokens[-1]}}}"
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
