"""Run by test_pictures_devices.py in a process with 8 devices: recipes that eat single pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.systems import test_contrastive, test_tokenizer
from tests.systems.janus_devices import B1, CASES
from tests.systems.test_janus import assert_close
from unijax.core import tree
from unijax.core.batch import ImageBatch
from unijax.core.system import System
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.tokenizer import Tokenizer
from unijax.train import setup
from unijax.train.stage import OptimizerConfig, Rule, StageConfig

ADAM = OptimizerConfig(learning_rate=1e-3, b1=B1, clip_norm=1e30)
CONTRASTIVE = StageConfig("stage", steps=10, rules=(Rule(""),), optimizers={"main": ADAM})
TOKENIZER = StageConfig(
    "stage",
    steps=10,
    rules=(Rule("generator/"), Rule("discriminator/", optimizer="other")),
    optimizers={"main": ADAM, "other": ADAM},
)


def step(system: System, stage: StageConfig, batch: ImageBatch, config: MeshConfig, devices: list):
    """Loss and gradients of a step."""
    mesh = make_mesh(config, devices)
    trainer = setup.build(system, stage, mesh, config.table, jnp.float32, seed=0)
    state, put = trainer.begin(trainer.init(0)), trainer.put(batch)
    with jax.transfer_guard("disallow"):
        state, metrics = trainer.train_step(state, put)
    grads = {
        name: jax.tree.map(lambda m: m / (1 - B1), s.mu)
        for name, states in state.opt_state.items()
        for s in states
        if isinstance(s, optax.ScaleByAdamState)
    }
    assert grads.keys() == stage.optimizers.keys()
    total, weight = metrics["loss"]
    return float(total / weight), jax.device_get(grads)


def check(found: dict, want: dict) -> None:
    """Equal, but for rounding that is all there is where a norm takes a bias away again."""
    found, want = tree.flatten(found), tree.flatten(want)
    rounding = 1e-7 * max(np.abs(x).max() for x in want.values())
    nothing = {path for path, x in want.items() if np.abs(x).max() < rounding}
    assert all(path.endswith("/bias") for path in nothing)
    assert all(np.abs(found[path]).max() < rounding for path in nothing)
    assert_close(*({p: x for p, x in y.items() if p not in nothing} for y in (found, want)))


def main():
    texts = [[1], [2, 3], [1], [], [4, 5, 6], [2], [3], [7, 8]]
    pairs = test_contrastive.batch(texts, [1, 1, 1, 0, 1, 1, 1, 1])
    pictures = test_tokenizer.batch((1.0,) * 7 + (0.0,))
    without = dataclasses.replace(test_tokenizer.CONFIG, perceptual_weight=0.0, adversarial_start=0)
    for system, stage, batch, tables in (
        (test_contrastive.SYSTEM, CONTRASTIVE, pairs, CASES),
        (Tokenizer(without), TOKENIZER, pictures, ("fsdp",)),
    ):
        batch = jax.tree.map(np.asarray, batch)
        want, want_grads = step(system, stage, batch, MeshConfig(), jax.devices()[:1])
        assert np.isfinite(want)
        for name in tables:
            loss, grads = step(system, stage, batch, CASES[name][0], jax.devices())
            np.testing.assert_allclose(loss, want, rtol=1e-5, err_msg=name)
            check(grads, want_grads)
    print("equal")


if __name__ == "__main__":
    main()
