"""Every kind of optimizer on 8 devices, a stack split over them, against one device.

Prints the largest difference of each, relative to how far a parameter went.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unijax.core import axes, tree
from unijax.core.system import Loss
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.stage import KINDS, OptimizerConfig, Rule, StageConfig

L, D, M, STEPS = 4, 128, 256, 3  # wide enough for factors


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers of two products, and a vector that all share."""

    encoders = frozenset()
    rows_alone = True
    own_axes: ClassVar = {}
    losses: ClassVar = {"error": Loss("MSE", "und", "Error")}
    costs = ()
    lookups: ClassVar = {}
    unused = ()

    def init(self, key):
        def box(key, *shape_and_names):
            shape, names = zip(*shape_and_names)
            return nn.LogicallyPartitioned(0.1 * jax.random.normal(key, shape), names)

        up, down, scale = jax.random.split(key, 3)
        layers, embed, mlp = (L, axes.LAYERS), (D, axes.EMBED), (M, axes.MLP)
        return {
            "layers": {
                "up": {"kernel": box(up, layers, embed, mlp)},
                "down": {"kernel": box(down, layers, mlp, embed)},
            },
            "norm": {"scale": box(scale, (D, axes.NORM))},
        }

    def weights(self, batch):
        return {"error": jnp.sum(batch["weight"])}

    def counts(self, batch):
        return {}

    def loss(self, params, batch, key, step, frozen):
        x = batch["x"]
        for i in range(L):
            up, down = (params["layers"][name]["kernel"][i] for name in ("up", "down"))
            x = x + jnp.tanh(x @ up) @ down
        error = jnp.mean((x * params["norm"]["scale"] - batch["y"]) ** 2, axis=1)
        return {"error": jnp.sum(error * batch["weight"])}, {}

    def amounts(self, batch, as_causal=False):
        return {}


def train(kind: str, config: MeshConfig, devices: list) -> tuple[dict, dict]:
    """Parameters before and after."""
    # Epsilon is far above rounding, which Adam would make as large as a step.
    stage = StageConfig(
        "s", STEPS, (Rule(""),),
        {"main": OptimizerConfig(0.01, kind=kind, eps=1e-3, weight_decay=0.1, clip_norm=0.5)},
    )  # fmt: skip
    mesh = make_mesh(config, devices)
    trainer = setup.build(Stack(), stage, mesh, config.table, jnp.float32, 0)
    before = jax.device_get(trainer.init(0))
    state = trainer.begin(trainer.init(0))
    for leaf in jax.tree.leaves(state.opt_state):
        # Moments lie like their parameters: none is whole on every device.
        assert leaf.ndim < 3 or not leaf.sharding.is_fully_replicated or len(devices) == 1
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        batch = {name: rng.normal(size=(16, D)).astype("f") for name in "xy"}
        batch["weight"] = np.ones(16, "f")
        state, _ = trainer.train_step(state, trainer.put(batch))
    return tree.flatten(before), tree.flatten(jax.device_get(state.params))


def main() -> None:
    split = MeshConfig(data=2, fsdp=2, tensor=2, table="fsdp_tensor")
    for kind in KINDS:
        before, one = train(kind, MeshConfig(), jax.devices()[:1])
        _, many = train(kind, split, jax.devices())
        apart = max(np.abs(many[p] - one[p]).max() / np.abs(one[p] - before[p]).max() for p in one)
        print(kind, f"{apart:.1e}")


if __name__ == "__main__":
    main()
