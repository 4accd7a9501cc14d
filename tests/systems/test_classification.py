"""Classification: the loss written out, smoothing, a probe, labels that are not there."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.long import long
from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from unijax.core import cost
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.models.eva import EvaConfig
from unijax.models.siglip import SiglipConfig
from unijax.systems.classification import RECIPE, Classification, ClassificationConfig
from unijax.train.stage import Rule

EVA = EvaConfig(16, 42, 2, 2, image_size=16, patch_size=8, hidden_act="swiglu", rope_grid=2)
SIGLIP = SiglipConfig(16, 8, 16, 32, 1, 2)
CONFIG = ClassificationConfig(EVA, 5, "class", 0.1)


@dataclasses.dataclass(frozen=True)
class SmallLabelled(SmallPictures):
    """Pictures with labels."""

    def host_batch(self, weight, seed=0) -> ImageBatch:
        batch = super().host_batch(weight, seed)
        label = np.random.default_rng(seed).integers(0, self.system.config.classes, len(weight))
        return batch.replace(label=label.astype(np.int32))


# Without smoothing, which evaluation has not.
SMALL = SmallLabelled(Classification(dataclasses.replace(CONFIG, label_smoothing=0.0)))
PROBE = SmallLabelled(
    Classification(ClassificationConfig(SIGLIP, 5)), (Rule("vision_model/", frozen=True),)
)


@long
class TestFineTuning(ImageSuite):
    small = SMALL
    recipe = RECIPE


class TestLinearProbe(ImageSuite):
    small = PROBE
    recipe = RECIPE


def run(small, batch, key=None):
    return jax.jit(functools.partial(small.loss, frozen=frozenset()))(small.params, batch, key)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_loss_is_cross_entropy_of_the_pooled_feature(pooling):
    system = Classification(dataclasses.replace(CONFIG, pooling=pooling))
    small = dataclasses.replace(SMALL, system=system)
    batch = small.batch([1, 0, 1, 1])
    tower = jax.jit(system.vision_model)
    tokens = tower(small.params["vision_model"], batch.pixels / 127.5 - 1)
    feature = tokens[:, 0] if pooling == "class" else tokens[:, 1:].mean(axis=1)
    head = small.params["head"]
    scores = np.asarray(feature @ head["kernel"] + head["bias"], np.float64)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    right = scores[np.arange(4), batch.label]
    counted = np.array([1, 0, 1, 1])
    for key, smooth in ((None, 0.0), (jax.random.key(0), 0.1)):
        each = -(1 - smooth) * right - smooth * scores.mean(axis=1)
        sums, metrics = run(small, batch, key)
        np.testing.assert_allclose(sums["class"], counted @ each, rtol=1e-4)
        named = counted @ (scores.argmax(axis=1) == np.asarray(batch.label))
        np.testing.assert_allclose(metrics["class/accuracy"], (named, 3))


def test_features_of_a_cache_stand_for_the_tower():
    batch = PROBE.batch([1, 1, 0])
    features = jax.jit(PROBE.system.encode)(PROBE.params, batch.pixels / 127.5 - 1)
    cached = batch.replace(features=features)
    want, found = (run(PROBE, b)[0] for b in (batch, cached))
    np.testing.assert_allclose(found["class"], want["class"], rtol=1e-5)
    assert cost.encoded_of("vision") not in PROBE.system.amounts(cached)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "model.classes: found 1; expected 2 or more"),
        ({"pooling": "max"}, "model.pooling: found 'max' of a EVA tower; expected one of"),
        (
            {"pooling": "class", "vision": SIGLIP},
            "'class' of a SigLIP tower; expected one of .'mean'",
        ),
        ({"label_smoothing": 1.0}, "model.label_smoothing: found 1.0; expected a share"),
    ],
)
def test_a_head_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_pictures_without_labels_are_refused():
    batch = SMALL.batch([1]).replace(label=None)
    with pytest.raises(UserError, match=r"data\.classes: found none"):
        SMALL.loss(SMALL.params, batch, None, frozenset())
