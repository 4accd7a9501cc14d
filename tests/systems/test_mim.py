"""Masked image modelling: the loss against loops, what is seen of masked patches, mistakes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.tree import flatten
from unijax.data.block_mask import block_mask
from unijax.models.clip import ClipVisionConfig
from unijax.models.eva import EvaConfig
from unijax.systems.mim import RECIPE, Mim, MimConfig
from unijax.train.stage import Rule

STUDENT = EvaConfig(
    16, 42, 2, 2, image_size=16, patch_size=4, hidden_act="swiglu", rope_grid=4, mlp_norm=True,
    mask_token=True,
)  # fmt: skip
TEACHER = ClipVisionConfig(16, 4, 24, 48, 1, 2)
CONFIG = MimConfig(STUDENT, TEACHER, target_dim=12)
EVA_CLIP = dataclasses.replace(STUDENT, mask_token=False, attention_norm=True)


@dataclasses.dataclass(frozen=True)
class SmallMasked(SmallPictures):
    """Pictures with their masks."""

    def host_batch(self, weight, seed=0) -> ImageBatch:
        batch, of = super().host_batch(weight, seed), self.system.masking
        masks = [block_mask(int(s), of.grid, of.grid, of.count).reshape(-1) for s in batch.seed]
        return batch.replace(masked=np.stack(masks))


SMALL = SmallMasked(Mim(CONFIG), rules=(Rule("teacher/", frozen=True),))
LIKE_EVA02 = SmallMasked(
    Mim(MimConfig(STUDENT, EVA_CLIP, target_dim=12, target_bias=True)), SMALL.rules
)


class TestMim(ImageSuite):
    small = SMALL
    recipe = RECIPE


@long
class TestMimTaughtByEvaClip(ImageSuite):
    small = LIKE_EVA02
    recipe = RECIPE


@functools.cache
def compiled(small):
    return jax.jit(functools.partial(small.loss, frozen=frozenset()))


def run(small, batch, key=None):
    return compiled(small)(small.params, batch, key)


@pytest.mark.parametrize("small", [SMALL, LIKE_EVA02], ids=["clip", "eva_clip"])
def test_the_loss_is_the_negative_cosine_of_masked_patches(small):
    batch, system = small.batch([1, 0, 1]), small.system
    sums, metrics = run(small, batch)
    pixels = batch.pixels / 127.5 - 1
    of = small.params["teacher"]
    wanted = jax.jit(system.teacher.patches)(of["vision_model"], pixels)
    wanted = wanted @ of["vision_projection"]["kernel"]
    wanted = np.asarray(wanted + of["vision_projection"].get("bias", 0))
    student = jax.jit(system.vision_model)(small.params["vision_model"], pixels, None, batch.masked)
    found = student[:, 1:]
    found = np.asarray(found @ small.params["head"]["kernel"] + small.params["head"]["bias"])
    total, count = 0.0, 0
    for i in (0, 2):
        for at in range(16):
            if batch.masked[i, at]:
                x, y = found[i, at].astype(float), wanted[i, at].astype(float)
                total -= x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                count += 1
    assert count == 2 * 7  # 105 of 256, of 16
    np.testing.assert_allclose(sums["mim"], total, rtol=1e-4)
    assert float(system.weights(batch)["mim"]) == count
    np.testing.assert_allclose(metrics["mim/loss"], (total, count), rtol=1e-4)


def test_what_is_masked_is_not_seen_by_the_student_and_seen_by_the_teacher():
    batch, system = SMALL.batch([1, 1]), SMALL.system
    masked = np.repeat(np.repeat(np.asarray(batch.masked).reshape(2, 4, 4), 4, 1), 4, 2)
    other = batch.replace(pixels=jnp.where(masked[..., None], 255 - batch.pixels, batch.pixels))
    predict = jax.jit(lambda b: system.predict(SMALL.params, b, training=False)[0])
    np.testing.assert_array_equal(predict(batch), predict(other))
    seen = batch.replace(pixels=jnp.where(masked[..., None], batch.pixels, 255 - batch.pixels))
    assert float(jnp.abs(predict(batch) - predict(seen)).max()) > 1e-2
    assert float(run(SMALL, batch)[0]["mim"]) != float(run(SMALL, other)[0]["mim"])


def test_features_of_a_cache_stand_for_the_teacher():
    batch = SMALL.batch([1, 1, 0])
    targets = jax.jit(SMALL.system.targets)(SMALL.params, batch.pixels / 127.5 - 1)
    want, found = run(SMALL, batch)[0], run(SMALL, batch.replace(features=targets))[0]
    np.testing.assert_allclose(found["mim"], want["mim"], rtol=1e-5)
    (how,) = SMALL.system.encoded.values()
    assert targets.shape[1:] == how.shape


def test_the_student_alone_gets_gradients():
    batch = SMALL.batch([1, 1])
    loss = lambda p: SMALL.loss(p, batch, None, frozenset())[0]["mim"]  # noqa: E731
    grads = jax.jit(jax.grad(loss))(SMALL.params)
    moved = {p: float(np.abs(g).max()) > 0 for p, g in flatten(grads).items()}
    assert {p.split("/")[0] for p, m in moved.items() if m} == {"vision_model", "head"}
    assert all(m for p, m in moved.items() if not p.startswith("teacher/"))


def test_branches_are_dropped_in_training_by_the_seed_of_the_picture():
    config = dataclasses.replace(CONFIG, vision=dataclasses.replace(STUDENT, drop_path=0.5))
    small = SmallMasked(Mim(config), SMALL.rules)
    batch, key = small.batch([1] * 4), jax.random.key(0)
    still, dropped = (float(run(small, batch, k)[0]["mim"]) for k in (None, key))
    assert still != dropped
    assert dropped == float(run(small, batch, jax.random.key(1))[0]["mim"])
    assert dropped != float(run(small, batch.replace(seed=batch.seed + 1), key)[0]["mim"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": dataclasses.replace(TEACHER, patch_size=8)},
            "found 2 x 2 patches of a picture of 16 pixels; expected 4 x 4 patches .* the student",
        ),
        ({"masked": 17}, "masked patches: found 17 of a grid of 4 x 4; expected 1 to 16"),
        (
            {"vision": dataclasses.replace(STUDENT, mask_token=False)},
            "found mask_token=False, patch_dropout=0.0; expected a student with a mask token",
        ),
        (
            {"vision": dataclasses.replace(STUDENT, patch_dropout=0.5)},
            "found mask_token=True, patch_dropout=0.5; expected a student with a mask token",
        ),
    ],
)
def test_towers_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_pictures_without_masks_are_refused():
    with pytest.raises(UserError, match="found pictures without masks"):
        run(SMALL, SMALL.batch([1]).replace(masked=None))


@pytest.mark.parametrize(("size", "count"), [(224, 105), (64, 26), (336, 236)])
def test_as_many_are_masked_of_every_grid(size, count):
    """105 of 256, the same share elsewhere; of a grid of 24, 236 of 576."""
    patch = 14 if size > 64 else 8
    student = dataclasses.replace(STUDENT, image_size=size, patch_size=patch)
    teacher = dataclasses.replace(TEACHER, image_size=size, patch_size=patch)
    assert MimConfig(student, teacher).masking.count == count
