"""The smallest system that the loop can train: two matrices and a table, in two groups."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unijax.core import axes
from unijax.core.cost import Cost
from unijax.core.system import Loss
from unijax.train.stage import OptimizerConfig, Rule, StageConfig


@dataclasses.dataclass(frozen=True)
class Toy:
    """y = relu(x @ encoder) @ head, squared error."""

    d: int = 4
    encoders = frozenset({"encoder"})
    rows_alone = True
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {}
    lookups: ClassVar[dict[str, str]] = {}
    unused = ()

    def init(self, key):
        def box(key, shape):
            value = jax.random.normal(key, shape) * 0.5
            return nn.LogicallyPartitioned(value, (axes.EMBED, axes.MLP))

        a, b = jax.random.split(key)
        return {
            "encoder": {"kernel": box(a, (self.d, 8))},
            "head": {
                "kernel": box(b, (8, 1)),
                "bias": nn.LogicallyPartitioned(jnp.zeros(1), (axes.NORM,)),
            },
        }

    def weights(self, batch):
        return {"error": jnp.sum(batch["weight"])}

    def counts(self, batch):
        return {"rows": (jnp.sum(batch["weight"]), jnp.ones(()))}

    def loss(self, params, batch, key, step, frozen):
        del key, step, frozen
        hidden = jax.nn.relu(batch["x"] @ params["encoder"]["kernel"])
        y = (hidden @ params["head"]["kernel"] + params["head"]["bias"])[:, 0]
        error = jnp.sum(batch["weight"] * (y - batch["y"]) ** 2)
        return {"error": error}, {"error": (error, jnp.sum(batch["weight"]))}

    def amounts(self, batch, as_causal=False):
        del as_causal
        return {"rows": jnp.sum(batch["weight"])}

    @property
    def costs(self):
        return (
            Cost("encoder", "tower", "encoder", "rows", 2.0 * self.d * 8),
            Cost("head", "head", "head", "rows", 2.0 * 8),
        )


class ToyBatches:
    """An endless stream that is a function of the seed and of how many were drawn."""

    def __init__(self, seed: int = 0, rows: int = 16):
        self._seed, self._rows, self._drawn = seed, rows, 0
        self.served = []
        self.metrics, self.documents = {}, {}

    def __next__(self):
        rng = np.random.default_rng((self._seed, self._drawn))
        self.served.append(self._drawn)
        self._drawn += 1
        self.metrics = {"rows": self._rows}
        self.documents = {self._drawn - 1: f"toy/{self._drawn - 1}"}
        x = rng.normal(size=(self._rows, 4)).astype(np.float32)
        weight = np.ones(self._rows, np.float32)
        return {"x": x, "y": np.tanh(x[:, 0] * x[:, 1]).astype(np.float32), "weight": weight}

    def get_state(self):
        return {"drawn": self._drawn}

    def set_state(self, state):
        self._drawn = state["drawn"]


def toy_stage(**changes) -> StageConfig:
    values = {
        "name": "toy",
        "steps": 20,
        "rules": (Rule("encoder/"), Rule("head/")),
        "optimizers": {"main": OptimizerConfig(learning_rate=0.02)},
    }
    return StageConfig(**(values | changes))
