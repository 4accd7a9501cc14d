"""A step of masked image modelling in PyTorch and here, side by side on this machine, in float32.

    python -m bench.mim_step                 # prints a table for docs/benchmarks.md
    python -m bench.mim_step --quick         # tiny sizes: whether it runs

The peer (`bench/eva_peer.py`) is timm's EVA with a mask token and a linear head, and torch's fused
AdamW. Both get the same weights, pictures, masks, and the teacher's features of the pictures: no
teacher is run. The loss is the negative cosine over the masked patches. The head runs at those
alone, as in EVA's code, and on either side for comparison at every patch. No patch is left out:
EVA's student sees all places (bench/contrastive_step.py has patch dropout). Losses of the first
steps have to agree before anything is timed. A process each, in turns.
"""

import dataclasses
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np

from bench import steps, steps_ours
from bench.janus_case import random_params
from bench.janus_contender import steps_of
from unijax.core.batch import ImageBatch
from unijax.data.block_mask import block_mask
from unijax.interop import timm_tower
from unijax.interop.eva_parts import eva_entries, released
from unijax.models.eva import SIZES, EvaConfig
from unijax.ops.image import to_signed
from unijax.systems.mim import Mim, MimConfig
from unijax.train.stage import Rule

STEPS = 4  # of a round
OURS, PEER = "bench.mim_step", "bench.eva_peer"
GROUPS = (
    {"PyTorch": (PEER, "masked"), "unijax": (OURS, "masked")},
    {
        "PyTorch, head at every patch": (PEER, "everywhere"),
        "unijax, head at every patch": (OURS, "everywhere"),
    },
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the networks, and of a step."""

    model: MimConfig
    pictures: int


def _case(student: EvaConfig, target: int, pictures: int) -> Case:
    # Nothing but its grid is asked of a teacher whose features are at hand.
    teacher = EvaConfig(32, 32, 1, 2, student.image_size, student.patch_size)
    student = dataclasses.replace(student, mask_token=True)
    return Case(MimConfig(student, teacher, target, True), pictures)


CASES = {
    # EVA-02-Ti, with targets as wide as those of EVA-CLIP g/14.
    "full": _case(SIZES["eva02_tiny_patch14_224"], 1024, 16),
    "quick": _case(SIZES["eva02_test"], 48, 4),
}


class Everywhere(Mim):
    """Its head runs at every patch; the loss is of the masked ones all the same."""

    def predict(self, params, batch, training):
        pixels, seed = to_signed(batch.pixels, self.dtype), batch.seed if training else None
        x = self.vision_model(params["vision_model"], pixels, seed, batch.masked)
        x = self.head.apply({"params": params["head"]}, x[:, self.vision_model.class_tokens :])
        at = jnp.argsort(~batch.masked, axis=1, stable=True)[:, : self.masking.count]
        return jnp.take_along_axis(x, at[..., None], axis=1), at


def batch_of(case: Case) -> ImageBatch:
    """Pictures and features are noise, masks are EVA's blocks."""
    rng = np.random.default_rng(0)
    c, n = case.model, case.pictures
    side, grid = c.vision.image_size, c.vision.grid
    masks = [block_mask(i, grid, grid, c.masking.count).ravel() for i in range(n)]
    return ImageBatch(
        pixels=rng.integers(0, 256, (n, side, side, 3), np.uint8),
        weight=np.ones(n, np.float32),
        seed=np.arange(n, dtype=np.uint32),
        masked=np.stack(masks),
        features=rng.standard_normal((n, grid**2, c.target_width), np.float32),
    )


def write(case: Case, folder: pathlib.Path, count: int) -> None:
    del count  # all steps are on one batch
    vision = case.model.vision
    settings = {"eva": timm_tower.arguments(vision), "target": case.model.target_width}
    entries = eva_entries(vision, released(vision), ("head", "lm_head"))
    steps_ours.write(folder, settings, entries, random_params(Mim(case.model)))
    batch = batch_of(case)
    arrays = {name: getattr(batch, name) for name in ("pixels", "masked", "features")}
    np.savez(folder / "batch.npz", **arrays)


def ours(case: Case, folder: pathlib.Path, side: str) -> dict:
    """Task: a round of steps."""
    del folder  # weights and batch are a function of the case
    system = {"masked": Mim, "everywhere": Everywhere}[side](case.model)
    batch = batch_of(case)
    stage = steps_ours.stage(Rule("teacher/", frozen=True), Rule(""))
    training = steps_ours.Training(system, stage, batch).begin(random_params(system))
    return {"steps": steps_of(training.step, itertools.repeat(batch))}


def main() -> None:
    case, found = steps.run(__doc__, CASES, write, ours, GROUPS, STEPS)
    vision, masking = case.model.vision, case.model.masking
    print(
        f"A tower of width {vision.hidden_size} with {vision.num_hidden_layers} layers, "
        f"{case.pictures} pictures of {masking.grid**2} patches, {masking.count} of them masked."
    )
    print(found.table("pictures", case.pictures))
    for side in ("PyTorch", "unijax"):
        saved = found.over(side, f"{side}, head at every patch")
        print(f"{side}: head at every patch / at the masked ones, seconds: {saved}")


if __name__ == "__main__":
    main()
