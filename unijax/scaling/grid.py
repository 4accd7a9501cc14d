"""Which runs a study has: grids as data, and a stable name for each run.

Three kinds of grid over the sizes of a ladder, each times learning rates and seeds:

- `isoflop`: every size at every budget, as long as the budget lasts (Hoffmann et al., arXiv
  2203.15556, section 3.2);
- `tokens`: every size for the same numbers of tokens;
- `epochs`: every size for the same numbers of passes over data of `unique_tokens` tokens.

A run is named by a hash of what it is, whole (`run_id`); so a sweep knows what is done, whoever
changed the grid around it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from unijax.core.errors import UserError

KINDS = {"isoflop": "budgets", "tokens": "tokens", "epochs": "epochs"}


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """A study's runs.

    Attributes:
      kind: "isoflop", "tokens" or "epochs".
      ladder: of `ladder.LADDERS`.
      widths: the sizes.
      budgets: training FLOPs, of an isoflop grid.
      tokens: of a tokens grid.
      epochs: of an epochs grid.
      unique_tokens: of one epoch of an epochs grid, whose data must have about so many. What a run
        saw is counted from its documents in any grid.
      learning_rates: none for the config's.
      seeds: of initialisation.
      mup_width: the width at which learning rates and initialisation are as the config says; other
        widths take theirs by the maximal-update parametrisation (`train.mup`). 0: every width has
        the config's.
      tokens_per_parameter: runs whose tokens over non-embedding parameters lie outside are left
        out, so that a budget does not ask for a giant of three steps.
      most_tokens: longer runs are left out, so that data need not repeat.
      share_trunk: runs that differ in length alone share the constant part of their schedule, and
        each decays from it (constant_decay; Hägele et al., arXiv 2405.18392).
    """

    kind: str
    widths: tuple[int, ...]
    ladder: str = "micro"
    budgets: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()
    unique_tokens: int = 0
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    mup_width: int = 0
    tokens_per_parameter: tuple[float, ...] = (0.0, 1e12)
    most_tokens: float = 1e15
    share_trunk: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError("grid.kind", repr(self.kind), f"one of {sorted(KINDS)}", "Correct it.")
        for name in ("widths", "seeds", KINDS[self.kind]):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(
                    f"grid.{name}", f"{list(values)}", "one or more values, all different",
                    "Correct the grid.",
                )  # fmt: skip
        for name in ("widths", *KINDS.values(), "learning_rates"):
            if not all(0 < x < math.inf for x in getattr(self, name)):
                raise UserError(
                    f"grid.{name}", f"{list(getattr(self, name))}", "numbers above 0",
                    "Correct the grid.",
                )  # fmt: skip
        if min(self.seeds) < 0:
            raise UserError("grid.seeds", f"{list(self.seeds)}", "0 or more", "Correct the grid.")
        for kind, name in KINDS.items():
            if kind != self.kind and getattr(self, name):
                raise UserError(
                    f"grid.{name}", f"values in a grid of kind {self.kind!r}", "none",
                    f"Remove them, or set grid.kind to {kind!r}.",
                )  # fmt: skip
        if self.kind == "epochs" and not self.unique_tokens:
            raise UserError("grid.unique_tokens", "0", "the tokens of one epoch", "Add it.")
        if self.kind != "epochs" and self.unique_tokens:
            raise UserError(
                "grid.unique_tokens", f"{self.unique_tokens} in a grid of kind {self.kind!r}",
                "none: what runs saw of their data is counted", "Remove it.",
            )  # fmt: skip
        if len(self.tokens_per_parameter) != 2:
            raise UserError(
                "grid.tokens_per_parameter", f"{self.tokens_per_parameter}", "(least, most)",
                "Correct it.",
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid. `learning_rate` None is the config's; `budget` is 0 without one."""

    width: int
    tokens: float
    learning_rate: float | None
    seed: int
    budget: float = 0.0


def cells(
    grid: GridConfig, flops_per_token: Callable[[int], float], parameters: Callable[[int], int]
) -> list[Cell]:
    """The runs, small and short ones first.

    Args:
      flops_per_token: training FLOPs of a token, by width.
      parameters: non-embedding, by width.

    Raises:
      UserError: if no run is left.
    """
    found = []
    low, high = grid.tokens_per_parameter
    for width in grid.widths:
        if grid.kind == "isoflop":
            lengths = [(c / flops_per_token(width), c) for c in grid.budgets]
        elif grid.kind == "tokens":
            lengths = [(float(t), 0.0) for t in grid.tokens]
        else:
            lengths = [(e * grid.unique_tokens, 0.0) for e in grid.epochs]
        found += [
            Cell(width, tokens, rate, seed, budget)
            for tokens, budget in lengths
            if low <= tokens / parameters(width) <= high and tokens <= grid.most_tokens
            for rate in grid.learning_rates or (None,)
            for seed in grid.seeds
        ]
    if not found:
        raise UserError(
            "grid.tokens_per_parameter",
            f"no run between {low:g} and {high:g} with at most {grid.most_tokens:g} tokens",
            "runs to do", "Widen it or most_tokens, or change the sizes or lengths.",
        )  # fmt: skip
    return sorted(found, key=lambda c: (c.tokens * flops_per_token(c.width), c.width, c.seed))


def run_id(description: Any) -> str:
    """Twelve hexadecimal digits of a run's whole description, as plain JSON values."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
