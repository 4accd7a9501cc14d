"""Reversible tables from our parameter paths to the tensor names of a foreign checkpoint.

One table per format, read in both directions, one tensor at a time. Before anything moves,
`check_coverage` holds every source and every target to exactly one entry.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import shown

Shape = tuple[int, ...]

_PART = 2**24  # numbers


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor, known without reading it."""

    shape: Shape
    dtype: np.dtype


@runtime_checkable
class Source(Protocol):
    """Tensors by name, read when they are asked for."""

    where: str
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout of one tensor, and its inverse. Values never change."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _patches_to_theirs(kernel: np.ndarray) -> np.ndarray:
    side = round((kernel.shape[0] // 3) ** 0.5)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # [out, in] <-> [in, out]
# OIHW <-> HWIO
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# [D, 3, p, p] <-> [p * p * 3, D]
PATCHES = Transform(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patches_to_theirs)
LEADING_ONE = Transform(lambda x: x.squeeze(0), lambda x: x[None])
LEADING_ONES = Transform(lambda x: x.squeeze((0, 1)), lambda x: x[None, None])


def rotary(heads: int) -> tuple[Transform, Transform]:
    """Of a kernel and of a bias of queries or keys whose pairs are neighbours on the other side.

    Ours has the first of every pair in the first half of a head, and the other in the second.
    """

    def apart(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], heads, -1, 2).swapaxes(-1, -2).reshape(x.shape)

    def together(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], heads, 2, -1).swapaxes(-1, -2).reshape(x.shape)

    return Transform(lambda x: apart(x.T), lambda x: together(x).T), Transform(apart, together)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
      ours: a path; or several, whose tensors the foreign one holds one after another along its
        first axis (a fused projection).
      theirs: a name. With `{i}` in it, the tensor of layer i of a stack whose layers are the first
        axis of ours.
      transform: of each tensor, without the axis of layers; or one for each of ours.
      rows: of each of ours, where they are not as long as each other.
    """

    ours: tuple[str, ...]
    theirs: str
    transform: Transform | tuple[Transform, ...] = SAME
    rows: tuple[int, ...] = ()

    @property
    def stacked(self) -> bool:
        return "{i}" in self.theirs

    def names(self, layers: int) -> list[str]:
        """Foreign names, one per layer of a stack."""
        return [self.theirs.replace("{i}", str(i)) for i in range(layers)]

    def to_ours(self, theirs: np.ndarray, part: int) -> np.ndarray:
        """The part-th of our tensors, from one foreign tensor."""
        if len(self.ours) > 1:
            rows = self.rows or (theirs.shape[0] // len(self.ours),) * len(self.ours)
            first = sum(rows[:part])
            theirs = theirs[first : first + rows[part]]
        return self.transforms[part].to_ours(theirs)

    def to_theirs(self, ours: list[np.ndarray]) -> np.ndarray:
        """One foreign tensor, from our tensors without the axis of layers."""
        parts = [transform.to_theirs(x) for transform, x in zip(self.transforms, ours)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        one = isinstance(self.transform, Transform)
        return (self.transform,) * len(self.ours) if one else self.transform


def linear(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
    """A matrix and its bias."""
    kernel = Entry((f"{ours}/kernel",), f"{theirs}.weight", LINEAR)
    return [kernel, Entry((f"{ours}/bias",), f"{theirs}.bias")] if bias else [kernel]


def norm(ours: str, theirs: str) -> list[Entry]:
    """Scale and bias of a layer norm."""
    return [
        Entry((f"{ours}/scale",), f"{theirs}.weight"),
        Entry((f"{ours}/bias",), f"{theirs}.bias"),
    ]


@dataclasses.dataclass(frozen=True)
class Table:
    """Every tensor of a format.

    Attributes:
      entries: each of our paths and each foreign name in one of them.
      dropped: regular expressions of whole foreign names that a checkpoint may hold and that this
        model does without.
    """

    entries: tuple[Entry, ...]
    dropped: tuple[str, ...] = ()

    def __post_init__(self):
        ours = [p for e in self.entries for p in e.ours]
        theirs = [e.theirs for e in self.entries]
        assert len(set(ours)) == len(ours), sorted({p for p in ours if ours.count(p) > 1})
        assert len(set(theirs)) == len(theirs), sorted({n for n in theirs if theirs.count(n) > 1})

    def entry(self, path: str) -> tuple[Entry, int]:
        """The entry of one of our paths, and which of its parts the path is."""
        return next((e, e.ours.index(path)) for e in self.entries if path in e.ours)

    def is_dropped(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.dropped)


def foreign_shapes(table: Table, ours: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of the foreign tensors, from those of our parameters.

    Args:
      ours: shape of every path of the table.
    """
    shapes = {}
    for entry in table.entries:
        cut = 1 if entry.stacked else 0
        # Views of one number: nothing of the tensors' size is made.
        blank = [np.broadcast_to(np.zeros((), np.bool_), ours[p][cut:]) for p in entry.ours]
        first, *rest = [t.to_theirs(x).shape for t, x in zip(entry.transforms, blank)]
        shape = (first[0] + sum(r[0] for r in rest), *first[1:]) if rest else first
        layers = ours[entry.ours[0]][0] if entry.stacked else 1
        shapes |= dict.fromkeys(entry.names(layers), shape)
    return shapes


def check_names(table: Table, layers: Mapping[str, int], source: Source, fix: str) -> None:
    """Holds the names of a foreign checkpoint to the table, before any parameter is described.

    Args:
      layers: length of every stack, by the beginning of our paths.
      source: the checkpoint.
      fix: advice for the message.

    Raises:
      UserError: listing what is missing or unexpected.
    """
    expected = set()
    for entry in table.entries:
        count = next((n for start, n in layers.items() if entry.ours[0].startswith(start)), 1)
        expected.update(entry.names(count) if entry.stacked else [entry.theirs])
    _tell(source, _names(table, expected, source), len(expected), fix)


def _names(table: Table, expected: Collection[str], source: Source) -> list[str]:
    found = {n for n in source.tensors if not table.is_dropped(n)}
    problems = []
    if missing := sorted(set(expected) - found):
        problems.append(f"{len(missing)} tensors missing ({some(missing)})")
    if extra := sorted(found - set(expected)):
        problems.append(f"{len(extra)} tensors that have no place ({some(extra)})")
    return problems


def _tell(source: Source, problems: list[str], count: int, fix: str) -> None:
    if problems:
        raise UserError(source.where, "; ".join(problems), f"{count} tensors, each used once", fix)


def check_coverage(table: Table, ours: Mapping[str, Shape], source: Source, fix: str) -> None:
    """Holds a foreign checkpoint and our parameters to the table, before anything is read.

    Args:
      ours: shape of every parameter that is to be filled.
      source: the checkpoint.
      fix: advice for the message.

    Raises:
      UserError: listing what is missing, unexpected, of another shape or no real numbers.
    """
    in_table = {p for e in table.entries for p in e.ours}
    assert in_table == set(ours), (sorted(in_table - set(ours)), sorted(set(ours) - in_table))
    expected = foreign_shapes(table, ours)
    problems = _names(table, expected.keys(), source)
    both = sorted(expected.keys() & source.tensors.keys())
    found = {n: source.tensors[n] for n in both}
    other = [
        f"{n} {list(found[n].shape)} instead of {list(expected[n])}"
        for n in both
        if tuple(found[n].shape) != tuple(expected[n])
    ]
    if other:
        problems.append(f"{len(other)} tensors of another shape ({some(other)})")
    kinds = [f"{n} in {found[n].dtype}" for n in both if not _is_float(found[n].dtype)]
    if kinds:
        problems.append(f"{len(kinds)} tensors that hold no real numbers ({some(kinds)})")
    _tell(source, problems, len(expected), fix)


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def some(items: list[str], most: int = 20) -> str:
    """A list for a message, of which the first are named."""
    more = f", and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(shown(item, 200) for item in items[:most]) + more


def read_leaf(table: Table, source: Source, path: str, shape: Shape) -> np.ndarray:
    """One of our parameters from a foreign checkpoint. Holds it and one foreign tensor.

    Args:
      shape: of the parameter; for a stack its first axis counts the layers.

    Raises:
      UserError: if the layers of a stack are stored in different dtypes.
    """
    entry, part = table.entry(path)
    if not entry.stacked:
        return np.ascontiguousarray(entry.to_ours(source.read(entry.theirs), part))
    names = entry.names(shape[0])
    dtype = source.tensors[names[0]].dtype
    for name in names:
        if source.tensors[name].dtype != dtype:
            raise UserError(
                source.where,
                f"{name} in {source.tensors[name].dtype}",
                f"{dtype}, as {names[0]} has",
                "Convert the checkpoint to one dtype first.",
            )
    out = np.empty(shape, dtype)
    for i, name in enumerate(names):
        out[i] = entry.to_ours(source.read(name), part)
    return out


def count_not_finite(array: np.ndarray) -> int:
    """How many numbers are NaN or infinite. A part at a time: no mask of the whole is made."""
    flat = np.ascontiguousarray(array).reshape(-1)
    parts = (flat[i : i + _PART] for i in range(0, flat.size, _PART))
    return sum(part.size - int(np.isfinite(part).sum()) for part in parts)


def foreign_tensors(entry: Entry, ours: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The foreign tensors of one entry, from our whole parameters, one at a time."""
    if not entry.stacked:
        yield entry.theirs, entry.to_theirs(ours)
        return
    for i, name in enumerate(entry.names(ours[0].shape[0])):
        yield name, entry.to_theirs([x[i] for x in ours])
