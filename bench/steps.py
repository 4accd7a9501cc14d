"""Training steps side by side: what the benches of a step have in common.

Such a bench writes a case into a folder. Each side is a process, `python -m MODULE SIDE FOLDER`,
that reads it and has the task `steps`. Sides of one group compute the same, the first of them in
PyTorch: losses of their first two steps have to agree before anything is timed.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.janus_contender import Contender, serve
from bench.janus_report import Spread, machine, ratio, table
from bench.janus_sections import Reply, check_losses, every, in_turns

Group = Mapping[str, tuple[str, str]]  # title: module, side
COMPARED = 2  # steps whose losses are held against each other


@dataclasses.dataclass(frozen=True)
class Compared:
    """What was measured.

    Attributes:
      groups: as they were given.
      apart: the largest difference of the losses of a group, of the loss.
      taken: replies of each title, one a round.
      answers: of each title, to the question asked at the end.
    """

    groups: Sequence[Group]
    apart: float
    taken: dict[str, list[Reply]]
    answers: dict[str, Reply]

    def over(self, title: str, base: str) -> str:
        """Seconds of `base` over those of `title`, round by round."""
        return ratio(every(self.taken[base]), every(self.taken[title])).text(2)

    def rates(self, title: str, amount: Callable[[Reply], float]) -> str:
        """What a reply has of something, by the second."""
        return Spread.of([amount(r) / r["seconds"] for r in self.taken[title]]).text(2)

    def seconds(self, title: str) -> str:
        """Of a step."""
        return Spread.of([r["seconds"] / len(r["losses"]) for r in self.taken[title]]).text(3)

    def table(self, what: str, each: int) -> str:
        """Seconds, and so many of something in a step by the second; ratios within each group."""
        rows = []
        for group in self.groups:
            first = next(iter(group))
            for title in group:
                rate = self.rates(title, lambda reply: each * len(reply["losses"]))
                times = "" if title == first else f"**{self.over(title, first)}**"
                rows.append((title, self.seconds(title), rate, times))
        return table(("", "seconds a step", f"{what} a second", "PyTorch / here"), rows)


def run(
    doc: str,
    cases: Mapping[str, Any],
    write: Callable[[Any, pathlib.Path, int], None],
    ours: Callable[[Any, pathlib.Path, str], Mapping[str, Callable]],
    groups: Sequence[Group],
    count: int,
    ask: str | None = None,
) -> tuple[Any, Compared]:
    """The command of a bench: the case, and what was measured.

    Called with a side and a folder it is that side, and does not return.

    Args:
      doc: of the bench.
      cases: "full" and "quick".
      write: puts the case into a folder, for so many steps.
      ours: tasks of this project's side of that name, from case and folder.
      groups: of sides.
      count: steps of a round.
      ask: a task of every side, done last.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 with --quick")
    parser.add_argument("side", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, place = options.side[0], pathlib.Path(options.side[1])
        serve(ours(cases[(place / "size").read_text()], place, side))
        sys.exit()
    size = "quick" if options.quick else "full"
    rounds = options.rounds or (1 if options.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "size").write_text(size)
        write(cases[size], pathlib.Path(folder), COMPARED + rounds * count)
        found = compare(groups, folder, rounds, count, ask)
    print(machine())
    print(f"Losses of the first {COMPARED} steps differ by {found.apart:.0e} of the loss at most.")
    return cases[size], found


def compare(
    groups: Sequence[Group], folder: str, rounds: int, count: int, ask: str | None = None
) -> Compared:
    """Starts the sides, holds their losses against each other, and times them in turns.

    Raises:
      ValueError: where the losses differ.
    """
    with contextlib.ExitStack() as stack:
        started = {
            title: stack.enter_context(Contender(module, side, folder))
            for group in groups
            for title, (module, side) in group.items()
        }
        apart = 0.0
        for group in groups:
            want, *others = (started[title].ask("steps", count=COMPARED) for title in group)
            for other in others:
                pairs = zip(other["losses"], want["losses"], strict=True)
                apart = max(apart, *(check_losses(a, b) for a, b in pairs))
        asks = {t: lambda side=side: side.ask("steps", count=count) for t, side in started.items()}
        taken = in_turns(asks, rounds)
        answers = {} if ask is None else {t: side.ask(ask) for t, side in started.items()}
    return Compared(groups, apart, taken, answers)
