"""Parts of a table that may have something in common: ends, bands and corners of sizes, lengths and
budgets, stretches of rows, values of a column."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from unijax.scaling.points import Points, clusters
from unijax.scaling.table import UNIT, Runs

FEWEST = 3  # runs in a part, and beside it
PLACES = 12  # along an axis: more values are drawn together
CORNER = 7  # places along each of two axes
CUTS = 60  # of the rows
POWERS = (1.0, 2.0)  # of the log of sizes and lengths, with which departures grow
NEAR = np.log(1.05)  # sizes, lengths and budgets nearer than this are one
OTHER_END = {"low": "high", "high": "low", "": ""}  # where those lie that a part leaves


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the runs.

    Attributes:
      profile: [n], how far each run belongs to it: 0 or 1, or rising with an axis.
      words: which they are.
      by: "parameters", "tokens", "compute", "longest", "rows", "corner", "any", or a column's name.
      end: "low" or "high" of `by`, or "".
      rest: which the others are.
    """

    profile: Float[np.ndarray, "n"]
    words: str
    by: str
    end: str = ""
    rest: str = ""

    @property
    def ramp(self) -> bool:
        """Whether it rises, in place of being some runs."""
        return bool(((self.profile > 0) & (self.profile < 1)).any())

    def others(self) -> "Part":
        """The runs that some runs leave."""
        rest = self.rest or (self.words and f"all but {self.words}")
        return Part(1 - self.profile, rest, self.by, OTHER_END[self.end], self.words)


def parts(points: Points, runs: Runs) -> list[Part]:
    """All of them, no two of the same runs (or of those that the other leaves)."""
    count, seen, found = len(points), set(), []
    for part in _all(points, runs):
        inside = part.profile > 0
        if not part.ramp:
            if not FEWEST <= inside.sum() <= count - FEWEST:
                continue
            key = min(inside.tobytes(), (~inside).tobytes())
            if key in seen:
                continue
            seen.add(key)
        found.append(part)
    return found


def _all(points: Points, runs: Runs) -> Iterator[Part]:
    for name in runs.columns:
        yield from _by_column(runs, name)
    axes = {
        "parameters": points.parameters, "tokens": points.tokens, "compute": points.compute,
    }  # fmt: skip
    for name, values in axes.items():
        yield from _by_axis(name, values)
    yield from _corners(points)
    yield from _longest(points)
    yield from _by_rows(runs)
    for name in ("parameters", "tokens"):
        yield from _ramps(name, axes[name])


def places(values: Float[np.ndarray, "n"], most: int) -> Int[np.ndarray, "n"]:
    """Of each value, from 0: neighbours together where there are more than `most` of them."""
    found = clusters(np.log(values), NEAR)
    if found.max() < most:
        return found
    # By counts of runs, but never between two of one place.
    share = np.cumsum(np.bincount(found)) / len(values)
    return np.unique(np.minimum((share * most).astype(int), most - 1), return_inverse=True)[1][
        found
    ]


def _by_axis(name: str, values: Float[np.ndarray, "n"]) -> Iterator[Part]:
    """Every stretch along an axis."""
    place = places(values, PLACES)
    last = place.max()
    for low in range(last + 1):
        for high in range(low, last + 1):
            if (low, high) == (0, last):
                continue
            here = (place >= low) & (place <= high)
            end = "low" if low == 0 else "high" if high == last else ""
            least, most = values[here].min(), values[here].max()
            if end == "low":
                words, rest = f"at most {most:.3g} {name}", f"more than {most:.3g} {name}"
            elif end == "high":
                words, rest = f"at least {least:.3g} {name}", f"less than {least:.3g} {name}"
            else:
                words = (
                    f"{least:.3g} to {most:.3g} {name}"
                    if most > 1.05 * least
                    else f"{most:.3g} {name}"
                )
                rest = f"other {name} than {words.removesuffix(' ' + name)}"
            yield Part(here.astype(float), words, name, end, rest)


def _corners(points: Points) -> Iterator[Part]:
    n, d = points.parameters, points.tokens
    by_n, by_d = places(n, CORNER), places(d, CORNER)
    for i in range(by_n.max()):
        for j in range(by_d.max()):
            for large in (False, True):
                for long in (False, True):
                    here = ((by_n > i) == large) & ((by_d > j) == long)
                    if not here.any():
                        continue
                    size = (
                        f"at least {n[here].min():.3g}" if large else f"at most {n[here].max():.3g}"
                    )
                    length = (
                        f"at least {d[here].min():.3g}" if long else f"at most {d[here].max():.3g}"
                    )
                    words = f"{size} parameters and {length} tokens"
                    yield Part(here.astype(float), words, "corner")


def _longest(points: Points) -> Iterator[Part]:
    """The runs that others of their size are checkpoints of, if any are."""
    size, longest = clusters(np.log(points.parameters), NEAR), np.zeros(len(points))
    for i in range(size.max() + 1):
        length = np.log(np.where(size == i, points.tokens, np.nan))
        if np.nanmax(length) - np.nanmin(length) > NEAR:
            longest[length > np.nanmax(length) - NEAR] = 1.0
    yield Part(longest, "the greatest length at each size", "longest", "high",
               "less than the greatest length at their size")  # fmt: skip


def _by_rows(runs: Runs) -> Iterator[Part]:
    ids, count = runs["run_id"], len(runs)
    cuts = np.unique(
        np.linspace(FEWEST, count - FEWEST, min(CUTS, count - 2 * FEWEST + 1)).round().astype(int)
    )
    row = np.arange(count)
    for cut in cuts:
        yield Part(
            (row < cut).astype(float), f"the first rows, up to {ids[cut - 1]}", "rows", "low"
        )
    edges = np.unique(np.linspace(0, count, PLACES + 1).round().astype(int))
    for i, first in enumerate(edges[1:-2], 1):
        for after in edges[i + 1 : -1]:
            here = (row >= first) & (row < after)
            words = f"the rows {ids[first]} to {ids[after - 1]}"
            yield Part(here.astype(float), words, "rows")


def _by_column(runs: Runs, name: str) -> Iterator[Part]:
    """Every value of a column of few."""
    if name.endswith(UNIT) or name in ("parameters", "non_embedding_parameters", "tokens",
                                       "training_flops", "unique_tokens", "size"):  # fmt: skip
        return
    values = np.array([str(v) for v in runs[name]], dtype=object)
    said = f"column {name}"
    if name == "run_id":
        values = np.array([re.sub(r"\d+", "#", v) for v in values], dtype=object)
        said = "ids"
    different = sorted(set(values))
    if not 1 < len(different) <= PLACES:
        return
    for value in different:
        yield Part((values == value).astype(float), f"{said} {value}", name)


def _ramps(name: str, values: Float[np.ndarray, "n"]) -> Iterator[Part]:
    """Departures that begin at a place and grow from there, to 1 at the end of the axis."""
    x = np.log(values)
    place = places(values, CORNER)
    middle = np.array([x[place == i].mean() for i in range(place.max() + 1)])
    for edge in middle[:-1]:
        rising = np.maximum(x - edge, 0) / (x.max() - edge)
        for power in POWERS:
            yield Part(rising**power, f"beyond {np.exp(edge):.3g} {name}", name, "high")
    for edge in middle[1:]:
        falling = np.maximum(edge - x, 0) / (edge - x.min())
        for power in POWERS:
            yield Part(falling**power, f"below {np.exp(edge):.3g} {name}", name, "low")
