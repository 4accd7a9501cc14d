"""The work of a step: true FLOPs by part, and what the program does beyond them.

True FLOPs are those of matrix products and convolutions that the model needs for what a step holds:
padding, empty image slots and recomputation excluded, as the loop counts them for its MFU
(`train.step.training_flops`). Each recipe counts its own parts: `janus_work`, `picture_work`.
"""

import dataclasses
from collections.abc import Mapping

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.train.stage import Rule


@dataclasses.dataclass(frozen=True)
class Part:
    """FLOPs of a step, over all devices.

    Attributes:
      forward: true ones of a forward pass.
      true: with the backward pass, as far as gradients flow.
      executed: with padding, empty slots and recomputation.
    """

    forward: float
    true: float
    executed: float

    def __add__(self, other: "Part") -> "Part":
        return Part(
            self.forward + other.forward, self.true + other.true, self.executed + other.executed
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """Of a step, over all devices.

    Attributes:
      amount: of `unit`s that a step works, padding excluded.
      unit: "token" or "image".
      parts: FLOPs by part of the model.
      lookups: rows that are looked up in tables of embeddings, by path of the table.
      forward_only: what has no backward pass, as starts of paths.
      idle: what a step does not use, likewise.
    """

    amount: float
    unit: str
    parts: Mapping[str, Part]
    lookups: Mapping[str, float]
    forward_only: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def true(self) -> float:
        return sum(part.true for part in self.parts.values())

    @property
    def executed(self) -> float:
        return sum(part.executed for part in self.parts.values())


class Trained:
    """Which parts of a model train: `"group" in trained`.

    Raises:
      UserError: if nothing does.
    """

    def __init__(self, rules: Mapping[str, Rule]):
        self._paths = [path for path, rule in rules.items() if not rule.frozen]
        if not self._paths:
            raise UserError(
                "stage.rules", "nothing that trains", "a part that does", "Unfreeze one."
            )

    def __contains__(self, group: str) -> bool:
        return any(tree.is_within(path, group) for path in self._paths)


def plain(forward: float, done: float, trains: bool) -> Part:
    """A part that trains costs three times its forward pass, one that passes gradients on twice.

    Args:
      forward: FLOPs that are needed.
      done: with padding.
    """
    times = 3 if trains else 2
    return Part(forward, times * forward, times * done)


def layers(
    needed: float, worked: float | int, each: float, last: float, remat: str, backward: int
) -> Part:
    """A stack of layers, of as many tokens or images as are needed, and as are worked.

    Recomputation of "full" adds a forward pass of the layers but for their last product.

    Args:
      each: FLOPs of a forward pass of one.
      last: the share of it of the last product of every layer, which nothing in the layer's
        backward pass asks for again.
      backward: passes: 2 for one that trains, 1 for one that passes gradients on, else 0.
    """
    again = each - last if remat == "full" and backward else 0.0
    executed = worked * ((1 + backward) * each + again)
    return Part(needed * each, (1 + backward) * needed * each, executed)
