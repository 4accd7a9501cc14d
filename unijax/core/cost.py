"""What a recipe computes, said once: FLOPs of its parts by what they are spent on.

The step counts them for its MFU, `plan/` compares them with a compiled program, `scaling/` turns
them into FLOPs per token, and the table of a sweep's runs into compute. FLOPs are those of matrix
products and convolutions, 2 per multiply-add; norms, activations and the softmax are left out.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

# What FLOPs are spent on. Of tokens, padding is excluded; of pairs, those that attention sees; of
# images, used slots.
TOKENS = "tokens"
CAUSAL = "tokens/causal"  # those of them that see none behind themselves: not of `sees_whole`
PAIRS = "pairs"
IMAGES = "images"  # of an ImageBatch
KINDS = ("decoder", "attention", "adaptor", "head", "tower")


def targets(kind: str) -> str:
    """The unit of positions that feed a head: "text", "code", ..."""
    return f"targets/{kind}"


def tokens_of(slots: str) -> str:
    """The unit of image tokens that stand in rows, by their array of slots."""
    return f"tokens/{slots}"


def images_of(slots: str) -> str:
    """The unit of images, by their array of slots."""
    return f"images/{slots}"


def encoded_of(slots: str) -> str:
    """The unit of those that are encoded in the step."""
    return f"encoded/{slots}"


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of a part.

    Attributes:
      name: what people are shown.
      kind: one of `KINDS`.
      group: path of the parameters of its products; "" where there are none, as in attention.
      unit: what they are spent on.
      forward: FLOPs of a forward pass for one of them.
      last: the share of it of the last product of every layer, where layers are stacked, which
        recomputation need not do again; None where nothing is recomputed.
      backward: whether gradients flow through it: not through what gives codes.
      times: FLOPs of a step for each of a forward pass; None: by what of `group` trains.
      again: of a forward pass, what the backward pass works once more as it is not kept. Kernels of
        attention make scores again for the gradients of queries and again for those of keys: 3.5
        forward passes where, all kept, 2 would do.
      counted: whether it is of the model's FLOPs, or only work that is done beside them.
    """

    name: str
    kind: str
    group: str
    unit: str
    forward: float
    last: float | None = None
    backward: bool = True
    times: float | None = None
    again: float = 0.0
    counted: bool = True

    def __post_init__(self):
        assert self.kind in KINDS, self


def forward(costs: Iterable[Cost], amounts: Mapping[str, Any]) -> dict[str, Any]:
    """Forward FLOPs by `Cost.name`, of what there is of each unit."""
    found: dict[str, Any] = {}
    for cost in costs:
        if cost.counted and cost.unit in amounts:
            spent = amounts[cost.unit] * cost.forward
            found[cost.name] = found[cost.name] + spent if cost.name in found else spent
    return found
