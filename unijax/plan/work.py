"""The work of a step: true FLOPs by part, and what the program does beyond them.

True FLOPs are those of matrix products and convolutions that the model needs for what a step holds:
padding, empty image slots and recomputation excluded, as the loop counts them for its MFU
(`train.flops`). Each recipe says what its parts cost (`System.costs`).
"""

import dataclasses
from collections.abc import Mapping

from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.system import System
from unijax.train.flops import Shares, multiple
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


def work_of(
    system: System,
    rules: Mapping[str, Rule],
    remat: str,
    amount: tuple[float, str],
    needed: Mapping[str, float],
    worked: Mapping[str, float] | None = None,
) -> Work:
    """Of a step that holds so much of every unit of `system.costs`.

    Args:
      amount: that a step works, and of what.
      needed: by unit; a unit that is left out is not there.
      worked: the same with padding and empty slots, where it differs.

    Raises:
      UserError: if nothing trains.
    """
    if all(rule.frozen for rule in rules.values()):
        raise UserError("stage.rules", "nothing that trains", "a part that does", "Unfreeze one.")
    shares, parts = Shares.of(system, rules), {}
    worked = {**needed, **(worked or {})}
    for cost in system.costs:
        if cost.unit not in needed:
            continue
        times = multiple(cost, shares, system.encoders)
        forward = needed[cost.unit] * cost.forward if cost.counted else 0.0
        part = Part(forward, times * forward, worked[cost.unit] * _executed(cost, times, remat))
        parts[cost.name] = parts[cost.name] + part if cost.name in parts else part
    idle = {c.group for c in system.costs if c.group and not worked.get(c.unit)}
    used = {c.group for c in system.costs if c.group and worked.get(c.unit)}
    once = {group for group in system.encoders if group in used and not shares[group]}
    once |= {cost.group for cost in system.costs if not cost.backward}
    return Work(
        amount=amount[0],
        unit=amount[1],
        parts=parts,
        lookups={path: worked.get(unit, 0.0) for path, unit in system.lookups.items()},
        forward_only=tuple(sorted(once)),
        idle=(*system.unused, *sorted(idle - used)),
    )


def _executed(cost: Cost, times: float, remat: str) -> float:
    """FLOPs of a step for one of its unit, with what is computed again.

    Recomputation of "full" adds a forward pass of stacked layers but for their last product.
    """
    again = cost.again * cost.forward if times > 1 else 0.0
    if remat == "full" and cost.last is not None and times > 1:
        again += cost.forward - cost.last
    return again + times * cost.forward
