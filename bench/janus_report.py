"""Medians, ratios, and the tables that docs/benchmarks.md holds."""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BEGIN, END = "<!-- written by make bench -->", "<!-- end of what make bench writes -->"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        median, least, greatest = (f"{x:.{digits}f}" for x in dataclasses.astuple(self))
        return f"{median} ({least} to {greatest})"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Seconds of theirs over ours, round by round: above 1 where ours is quicker."""
    return Spread.of([t / o for t, o in zip(theirs, ours, strict=True)])


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def paragraph(*parts: str) -> str:
    """Parts joined by spaces, in lines of a readable length."""
    return textwrap.fill(" ".join(parts), 116, break_long_words=False, break_on_hyphens=False)


def machine() -> str:
    """What the figures were measured on, without its name."""
    cpu, memory = "an unnamed processor", 0
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = round(int(line.split()[1]) / 2**20)
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch", "transformers")
    )
    return f"{cores} cores of {cpu}, {memory} GiB; Python {platform.python_version()}, {packages}"


def read_speed(size: int) -> float:
    """Bytes a second at which all cores together read `size` bytes again and again: the best of 12.

    What weights of that size can be read at, the caches of this machine included: no step that
    reads them takes less than its bytes over this.
    """
    cores = len(os.sched_getaffinity(0))
    shares = [np.ones(size // 4 // cores, np.float32) for _ in range(cores)]
    best = float("inf")
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(12):
            began = time.perf_counter()
            list(threads.map(lambda x: np.dot(x, x), shares))
            best = min(best, time.perf_counter() - began)
    return size / best


def _lines(path: str) -> list[str]:
    file = pathlib.Path(path)
    return file.read_text().splitlines() if file.exists() else []


def put_section(text: str, section: str) -> str:
    """`text` with what stands between the marks replaced, or with both added at its end."""
    body = f"{BEGIN}\n{section.strip()}\n{END}"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{body}\n".lstrip()
    return re.sub(f"{BEGIN}.*?{END}", lambda _: body, text, count=1, flags=re.DOTALL)
