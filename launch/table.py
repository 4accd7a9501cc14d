"""`unijax status`: the runs of a sweep as a table, from their status files."""

import pathlib
import time
from collections.abc import Sequence

from unijax.core import status as status_lib
from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.core.status import Status
from unijax.launch.engines import RUNS
from unijax.launch.spec import FOLDER

_HEAD = (
    "run", "state", "step", "of", "loss", "tokens/s", "s/step", "MFU", "goodput", "GiB", "updated",
    "attempt", "host", "job",
)  # fmt: skip
FILES = (status_lib.FILE, f"*/{status_lib.FILE}", f"{FOLDER}/{RUNS}")  # that it reads
_WIDEST = 1e12  # of a number with all its digits
_SILENT_SECONDS = 600.0  # of a run whose process says nothing: it is gone, or cannot write


def table(directory: pathlib.Path, now: float | None = None) -> str:
    """One line a run: of a directory of runs, or of one run.

    Args:
      now: seconds since 1970; None reads the clock.

    Raises:
      UserError: if there is no run.
    """
    now = time.time() if now is None else now
    found = _statuses(directory)
    if not found:
        raise UserError(
            str(directory), "no status file of a run", "a run directory, or one of runs",
            "Give the --run-dir of `unijax train`, or the `directory` of a launch file.",
        )  # fmt: skip
    rows = [_HEAD, *(_row(name, status, now) for name, status in sorted(found.items()))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    messages = [
        f"{shown(name)}: {shown(said.splitlines()[0], 500)}"
        for name, status in sorted(found.items())
        if (said := _message(status))
    ]
    counts: dict[str, int] = {}
    for status in found.values():
        state = _state(status, now)
        counts[state] = counts.get(state, 0) + 1
    total = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    return "\n".join([*lines, f"{len(found)} runs: {total}", *messages])


# What is known of a run: None of one that has not begun, an error where its file cannot be read.
Known = Status | UserError | None


def _statuses(directory: pathlib.Path) -> dict[str, Known]:
    """By name."""
    here = status_lib.read(directory)
    if here is not None:
        return {here.run: here}
    found: dict[str, Known] = {}
    for listed in directory.glob(f"{FOLDER}/{RUNS}"):
        found |= {line.split("\t")[0]: None for line in _lines(listed)}
    for path in directory.glob(f"*/{status_lib.FILE}"):
        try:
            status = status_lib.read(path.parent)
        except UserError as error:
            status = error
        if status is not None:
            found[path.parent.name] = status
    return found


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines() if path.is_file() else []
    except OSError as e:
        raise UserError(str(path), f"{e.strerror or e}", "a list of runs", "Restore it.") from None


def _message(status: Known) -> str:
    return str(status) if isinstance(status, UserError) else status.message if status else ""


def _state(status: Known, now: float) -> str:
    if not isinstance(status, Status):
        return "unreadable" if status else "waiting"
    going = status.state in ("starting", "running")
    return "silent" if going and now - status.updated > _SILENT_SECONDS else status.state


def _row(name: str, status: Known, now: float) -> Sequence[str]:
    name = shown(name)
    if not isinstance(status, Status):
        return (name, _state(status, now), *[""] * (len(_HEAD) - 2))
    return (
        name,
        _state(status, now),
        f"{status.step:,}",
        f"{status.steps:,}",
        _cell(status.loss, ".4f"),
        _cell(status.tokens_per_second, ",.0f"),
        _cell(status.step_seconds.get("p50"), ".3g"),
        _cell(status.mfu, ".1%"),
        _cell(status.goodput, ".0%"),
        _cell(status.memory_gib, ".1f"),
        f"{_ago(now - status.updated)} ago",
        str(status.attempt),
        shown(status.host),
        shown(status.job),
    )


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form if abs(value) < _WIDEST else ".3g")


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
