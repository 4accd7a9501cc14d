"""This project's side of a training step, and what its peer in PyTorch is given."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from unijax.core import tree
from unijax.core.system import System
from unijax.interop.table import Entry, foreign_tensors
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.stage import LoraRule, OptimizerConfig, Rule, StageConfig

RATE = 1e-4  # as bench/steps_torch.py


def stage(*rules: Rule, lora: tuple[LoraRule, ...] = ()) -> StageConfig:
    """Of many steps, by AdamW at a constant rate."""
    return StageConfig("bench", 1000, rules, {"main": OptimizerConfig(RATE)}, lora=lora)


def write(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    entries: Iterable[Entry],
    flat: Mapping[str, np.ndarray],
) -> None:
    """`case.json`, and the weights under the peer's names as `weights.safetensors`."""
    (folder / "case.json").write_text(json.dumps(settings))
    tensors = {
        name: np.ascontiguousarray(x)
        for entry in entries
        for name, x in foreign_tensors(entry, [flat[path] for path in entry.ours])
    }
    save_file(tensors, folder / "weights.safetensors")


class Training:
    """Optimizer steps as `unijax train` takes them, compiled before there are parameters.

    Attributes:
      state: what the steps change.
      temporaries: bytes, as the compiler reports them.
    """

    def __init__(self, system: System, stage: StageConfig, like: Any):
        """`like` is a batch."""
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        self._trainer = setup.build(system, stage, mesh, "data", jnp.float32, seed=0)
        sharding = self._trainer.batch_sharding
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        step = self._trainer.train_step.lower(self._trainer.abstract_state, shapes)
        self._step = step.compile()
        self.temporaries = self._step.memory_analysis().temp_size_in_bytes
        self.state = None

    def begin(self, flat: Mapping[str, np.ndarray]) -> "Training":
        """From parameters by path."""
        place = lambda x, like: jax.device_put(x, like.sharding)  # noqa: E731
        params = jax.tree.map(place, tree.unflatten(dict(flat)), self._trainer.abstract)
        self.state = self._trainer.begin(params)
        return self

    def step(self, batch: Any) -> float:
        """The loss before the update."""
        self.state, metrics = self._step(self.state, self._trainer.put(batch))
        total, weight = metrics["loss"]
        return float(total) / float(weight)
