"""Kinds of optimizers: from the gradients of a group to its step, before the learning rate.

What is done per matrix (a trust ratio, an orthogonalised step, factors of a second moment, a norm
of a parameter) is done per layer of a stack, whose layers lie on a leading axis of one leaf.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from unijax.core import axes, tree
from unijax.core.system import Params
from unijax.train.mup import WIDTHS
from unijax.train.stage import OptimizerConfig, Rule

# Of the state of each kind in checkpoints. One that is changed is counted up.
VERSIONS = {"adamw": 1, "lamb": 1, "adafactor": 1, "muon": 1, "sgd": 1}

ADAFACTOR_CLIP = 1.0  # most root mean square of a step (arXiv 1804.04235, section 6)
MUON_SIZE = 0.2  # root mean square of a step, about that of Adam's (arXiv 2502.16982, section 2.2)

Transform = optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What an optimizer knows of a parameter.

    Attributes:
      layers: of the stack on its leading axis; 0 where there is none.
      hidden: whether it is a matrix from a width to a width, or a stack of them.
      decays: whether it gets weight decay.
    """

    layers: int = 0
    hidden: bool = False
    decays: bool = False


def leaf(path: str, box: Any, rule: Rule) -> Leaf:
    """Of a parameter, boxed with its logical axis names.

    Weight decay is for matrices, tables, convolution kernels and adapters, not for norms and
    biases.
    """
    kind = path.rsplit("/", 1)[-1]
    stacked = bool(box.names) and box.names[0] == axes.LAYERS
    dims = box.names[stacked:]
    return Leaf(
        layers=box.value.shape[0] if stacked else 0,
        hidden=kind == "kernel" and len(dims) == 2 and WIDTHS.issuperset(dims),
        decays=rule.decay and kind in ("kernel", "embedding", "lora_a", "lora_b"),
    )


def apart(transforms: Mapping[str, Transform], labels: Mapping[str, str]) -> Transform:
    """Each leaf by the transform of its label: paths to labels."""

    def parts(nested: Params) -> dict[str, Params]:
        flat = tree.flatten(nested)
        return {
            label: tree.unflatten({p: x for p, x in flat.items() if labels[p] == label})
            for label in transforms
        }

    def init(params: Params) -> dict:
        split = parts(params)
        return {label: one.init(split[label]) for label, one in transforms.items()}

    def update(updates: Params, state: dict, params: Params) -> tuple[Params, dict]:
        flat, new = {}, {}
        updates, params = parts(updates), parts(params)
        for label, one in transforms.items():
            part, new[label] = one.update(updates[label], state[label], params[label])
            flat |= tree.flatten(part)
        return tree.unflatten(flat), new

    return Transform(init, update)


def per_layer(one: Transform, leaves: Mapping[str, Leaf]) -> Transform:
    """`one`, to which every leaf is a matter of its own, as if layers of a stack were leaves."""
    depths = sorted({x.layers for x in leaves.values()})
    transforms = {
        str(n): Transform(jax.vmap(one.init), jax.vmap(one.update)) if n else one for n in depths
    }
    return apart(transforms, {path: str(x.layers) for path, x in leaves.items()})


def of_some(one: Transform, rest: Transform, chosen: frozenset[str], leaves: Mapping[str, Leaf]):
    """`one` per layer of the leaves whose paths are chosen, `rest` of the others."""
    some = per_layer(one, {p: leaves[p] for p in chosen})
    labels = {p: "chosen" if p in chosen else "rest" for p in leaves}
    return apart({"chosen": some, "rest": rest}, labels)


def steps(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[Transform]:
    """A chain that turns gradients into steps, to be scaled by the learning rate.

    Args:
      leaves: of the group, by path.
    """
    c = config
    adam = optax.scale_by_adam(c.b1, c.b2, c.eps)
    decay = []
    if c.weight_decay:
        mask = tree.unflatten({p: x.decays for p, x in leaves.items()})
        decay = [optax.add_decayed_weights(c.weight_decay, mask)]
    found = {
        "adamw": lambda: [adam, *decay],
        "lamb": lambda: [adam, *decay, _trust(leaves)],
        "adafactor": lambda: [
            per_layer(_factored(), leaves),
            *([optax.ema(c.b1, debias=False)] if c.b1 else []),
            *decay,
        ],
        "muon": lambda: [_muon(c, adam, leaves), *decay],
        "sgd": lambda: [*decay, *([optax.trace(c.b1)] if c.b1 else [])],
    }[c.kind]()
    # What clips and what does not have the same state: none.
    clip = optax.clip_by_global_norm(c.clip_norm) if c.clip_norm else optax.identity()
    return [clip, *found]


def _trust(leaves: Mapping[str, Leaf]) -> Transform:
    """The step is as large as the parameter: of what is decayed, as NVIDIA's LAMB has it."""
    decayed = frozenset(p for p, x in leaves.items() if x.decays)
    return of_some(optax.scale_by_trust_ratio(), optax.identity(), decayed, leaves)


def _factored() -> Transform:
    """Adafactor's step without momentum, relative to the size of the parameter."""
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(ADAFACTOR_CLIP),
        optax.scale_by_param_block_rms(),
    )


def _muon(config: OptimizerConfig, adam: Transform, leaves: Mapping[str, Leaf]) -> Transform:
    """Momentum of hidden matrices, orthogonalised; Adam's step of all else."""

    def whole(updates: Params) -> Params:
        return jax.tree.map(lambda _: MuonDimensionNumbers(), updates)

    def resize(u: jax.Array) -> jax.Array:
        return u * (MUON_SIZE * max(u.shape) ** 0.5)

    matrix = optax.chain(
        scale_by_muon(beta=config.b1, eps=config.eps, weight_dimension_numbers=whole),
        optax.stateless_with_tree_map(lambda u, _: resize(u)),
    )
    hidden = frozenset(p for p, x in leaves.items() if x.hidden)
    return of_some(matrix, adam, hidden, leaves)
