"""Maximal-update parametrisation: the learning rate found at a small width holds at a large one.

Yang et al., "Tensor Programs V" (arXiv 2203.03466), table 3 for Adam. With n times the width of the
base:

| parameter | initial scale | learning rate |
|---|---|---|
| input: embeddings, first layers of adaptors and patches, biases, norms | 1 | 1 |
| hidden: from a width to a width | n^-1/2 | 1/n |
| output: from a width to a fixed number | 1/n | 1/n |

and attention is scaled by 1/d instead of 1/sqrt(d), where the width of a head d grows. Which kind a
parameter is shows from its shape beside that of the base, dim by dim, so that layers whose widths
grow by different factors each get their own n.

All of it is in how parameters begin and in their learning rates. What the paper writes as a
multiplier of the output, or of attention's scores, is exactly that to Adam, whose step does not
change when gradients are scaled (its lemma J.1): attention's goes to `q_proj`, or to the norm of
the queries where there is one. So the network, its checkpoints, exports and kernels are the plain
ones. Epsilon of Adam must stay far below the gradients, which shrink with width. Weight decay takes
the multiple of the learning rate along. Other kinds of optimizers, whose steps grow otherwise with
width, are refused.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.train.stage import StageConfig

# Dims that a ladder of widths makes grow; tables of ids, patches and codes stay as they are.
WIDTHS = frozenset(
    {
        axes.EMBED, axes.MLP, axes.HEADS, axes.KV_HEADS,
        axes.VISION_EMBED, axes.VISION_MLP, axes.VISION_HEADS,
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scale:
    """Factors on a parameter's initial value and on its learning rate."""

    init: float
    rate: float


def check_stage(stage: StageConfig) -> None:
    """Raises UserError for a stage that the table is not of."""
    if stage.lora:
        raise UserError(
            "mup_base", "sizes, for a stage with adapters", "none: they are not of the table",
            "Remove mup_base.",
        )  # fmt: skip
    for name, optimizer in stage.optimizers.items():
        if optimizer.kind != "adamw":
            raise UserError(
                "mup_base", f"sizes, with stage.optimizers.{name}.kind={optimizer.kind!r}",
                "'adamw': other kinds want other learning rates than the table's",
                "Set that kind, or remove mup_base (of a sweep, mup_width).",
            )  # fmt: skip


def scales(
    params: Any,
    base: Any,
    head_dims: Mapping[str, int],
    base_head_dims: Mapping[str, int],
) -> dict[str, Scale]:
    """The factors of every parameter, by path.

    Args:
      params: shapes of the parameters, boxed with logical axis names (`System.init`).
      base: the same at the base widths. The number of layers may differ.
      head_dims: width of a head of attention, by top-level group (`System.head_dims`).
      base_head_dims: the same at the base.

    Raises:
      UserError: if the base has other parameters, or a head is the embedding.
    """
    ours, theirs = tree.flatten(params), tree.flatten(base)
    if other := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(
            "mup_base", f"parameters that one of the two models lacks: {other[:3]}",
            "a model that differs in widths and depth alone", "Correct mup_base.",
        )  # fmt: skip
    found = {}
    for path, box in ours.items():
        scale = _by_shape(box, theirs[path])
        module, _, name = path.rpartition("/")[0].rpartition("/")
        if name == "embed_tokens" and f"{module}/lm_head/kernel" not in ours:
            raise UserError(
                "mup_base", f"{module}: a head that is the embedding",
                "one of its own, which has another scale", "Untie them, or remove mup_base.",
            )  # fmt: skip
        if name == ("q_norm" if f"{module}/q_norm/scale" in ours else "q_proj"):
            group = path.split("/")[0]
            heads = math.sqrt(base_head_dims[group] / head_dims[group])
            scale = Scale(scale.init * heads, scale.rate * heads)
        found[path] = scale
    return found


def _by_shape(box: Any, base: Any) -> Scale:
    """Kernels and tables end in (in, out); vectors, of which a stack has L, have no `in`."""
    grown = [
        n / m if name in WIDTHS else 1.0
        for n, m, name in zip(box.value.shape, base.value.shape, box.names)
        if name != axes.LAYERS
    ]
    into, out = grown[-2:] if len(grown) > 1 else (1.0, 1.0)
    if into == 1:
        return Scale(1.0, 1.0)
    return Scale(1 / into if out == 1 else 1 / math.sqrt(into), 1 / into)
