"""Saved on one mesh, restored on others: `python -m tests.train.checkpoint_devices DIR`."""

import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.loop import LoopConfig, fit

# devices, data, fsdp, table
MESHES = ((8, 2, 4, "fsdp"), (8, 1, 8, "fsdp"), (8, 8, 1, "data"), (1, 1, 1, "data"))
STAGE = toy_stage(ema_decay=0.9)


class Wide(Toy):
    """The toy, 8 wide, so that eight devices share it."""

    def __init__(self):
        super().__init__(d=8)


class WideBatches(ToyBatches):
    def __next__(self):
        batch = super().__next__()
        return batch | {"x": np.tile(batch["x"], (1, 2))}


def train(run_dir: pathlib.Path, mesh: tuple, stop_at: int):
    """The state at that step. Restores where there is something."""
    count, data, fsdp, table = mesh
    places = make_mesh(MeshConfig(data=data, fsdp=fsdp, table=table), jax.devices()[:count])
    trainer = setup.build(Wide(), STAGE, places, table, jnp.float32, seed=3)
    state = trainer.begin(trainer.init(7))
    return fit(
        state, trainer, WideBatches(), STAGE.steps, LoopConfig(log_every=5, writers=()), run_dir,
        {"stage": "toy", "config": {}}, {}, stop_at,
    )  # fmt: skip


def main() -> None:
    place = pathlib.Path(sys.argv[1])
    for i, saved_on in enumerate(MESHES[::2]):
        saved = train(place / f"{i}", saved_on, stop_at=10)
        ends = []
        for j, restored_on in enumerate(MESHES):
            run_dir = place / f"{i}_{j}"
            shutil.copytree(place / f"{i}", run_dir)
            restored = train(run_dir, restored_on, stop_at=10)
            pairs = zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True)
            for a, b in pairs:
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), (saved_on, restored_on)
            kernel = restored.params["encoder"]["kernel"]
            assert len(kernel.sharding.device_set) == restored_on[0]
            assert kernel.sharding.shard_shape(kernel.shape)[0] == 8 // restored_on[2]
            assert not (run_dir / "events.jsonl").exists()
            ends.append(train(run_dir, restored_on, stop_at=14))
        for end in ends[1:]:  # later steps agree to rounding
            for a, b in zip(jax.tree.leaves(ends[0].params), jax.tree.leaves(end.params)):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main()
