"""Parameters by group and FLOPs per token by modality, as they enter scaling laws.

FLOPs are those of matrix products, 2 per multiply-add. A token that trains costs three times its
forward pass; a frozen tower's costs one. Attention counts the pairs that are visible: in a causal
document of T tokens (T + 1) / 2 keys per query, not T. Norms, activations and the softmax are left
out: they are what the compiled model has more (`tests/scaling/test_ladder.py`).
"""

import dataclasses
import math

import flax.linen as nn

from unijax.core import tree
from unijax.core.cost import PAIRS
from unijax.core.ladder import Rung
from unijax.core.system import RowSystem, init_shapes
from unijax.systems.registry import recipe


@dataclasses.dataclass(frozen=True)
class Account:
    """Of one model.

    Attributes:
      parameters: counts by group: embedding, decoder, adaptors, heads, towers.
      forward: FLOPs per token by modality and part: decoder, attention, adaptor, head, tower.
      context: tokens of a document, for attention.
    """

    parameters: dict[str, int]
    forward: dict[str, dict[str, float]]
    context: int

    @property
    def trained(self) -> int:
        """All but the frozen towers."""
        return sum(n for group, n in self.parameters.items() if group != "towers")

    @property
    def non_embedding(self) -> int:
        """The decoder's layers and norms: N of Kaplan et al. (arXiv 2001.08361)."""
        return self.parameters["decoder"]

    def training(self, modality: str, head: bool = True, attention: bool = True) -> float:
        """Training FLOPs per token: 3 x forward of what trains, 1 x of a frozen tower."""
        left_out = {name for name, in_ in (("head", head), ("attention", attention)) if not in_}
        parts = self.forward[modality].items()
        return sum((1 if k == "tower" else 3) * v for k, v in parts if k not in left_out)


def account(rung: Rung, context: int) -> Account:
    """Of a rung, with documents of `context` tokens."""
    system = recipe(rung.recipe).system(rung.config)
    spent = {PAIRS: (context + 1) / 2}
    forward = {}
    for modality, units in system.modalities.items():
        parts: dict[str, float] = {}
        for cost in system.costs:
            amount = (spent | units).get(cost.unit, 0.0) * cost.forward
            if amount:
                parts[cost.kind] = parts.get(cost.kind, 0.0) + amount
        forward[modality] = parts
    return Account(parameters_by_kind(system), forward, context)


def parameters_by_kind(system: RowSystem) -> dict[str, int]:
    """Exact counts, by what the recipe's costs and lookups say of the paths.

    A parameter of neither, such as the last norm, is of the kind of the first part of its group; of
    a group without any, such as learned queries, it is an adaptor's.
    """
    kinds = {"embedding": 0, "decoder": 0, "adaptors": 0, "heads": 0, "towers": 0}
    names = {"adaptor": "adaptors", "head": "heads", "tower": "towers", "decoder": "decoder"}
    parts = [(cost.group, names[cost.kind]) for cost in system.costs if cost.group]
    for path, x in tree.flatten(nn.unbox(init_shapes(system))).items():
        kind = "embedding" if path in system.lookups else None
        if kind is None:
            kind = next((k for group, k in parts if tree.is_within(path, group)), None)
        if kind is None:
            top = path.split("/")[0]
            kind = next((k for group, k in parts if group.split("/")[0] == top), "adaptors")
        kinds[kind] += math.prod(x.shape)
    return kinds


def describe(rungs: list[Rung], context: int) -> str:
    """The ladder as text: the arithmetic, the parameters, and FLOPs per token beside 6 N."""
    lines = []
    for rung in rungs:
        found = account(rung, context)
        lines.append(f"{rung.name}  width {rung.config.text.hidden_size}: {rung.arithmetic}")
        groups = "  ".join(f"{g} {n:,}" for g, n in found.parameters.items() if n)
        lines.append(f"  parameters: {groups}")
        lines.append(
            f"  non-embedding {found.non_embedding:,}; trained {found.trained:,}; "
            f"all {sum(found.parameters.values()):,}"
        )
        lines.append(
            f"  {'training FLOPs per token':26}{'products':>12}{'+ attention':>13}{'+ head':>12}"
            f"{'+ tower':>12}{'/ 6 N decoder':>15}{'/ 6 N trained':>15}"
        )
        for modality, parts in found.forward.items():
            products = found.training(modality, head=False, attention=False) - parts.get("tower", 0)
            attention = products + 3 * parts["attention"]
            head = attention + 3 * parts.get("head", 0)
            whole = found.training(modality)
            lines.append(
                f"  {modality:26}{products:12.4g}{attention:13.4g}{head:12.4g}{whole:12.4g}"
                f"{head / (6 * found.non_embedding):15.3f}{head / (6 * found.trained):15.3f}"
            )
        lines.append("")
    lines.append(
        f"Attention over documents of {context:,} tokens; a frozen tower runs forward only."
    )
    return "\n".join(lines)
