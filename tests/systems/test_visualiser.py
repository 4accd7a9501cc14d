"""MetaMorph's visualiser: what every system of pictures must do, its loss, its condition."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from tests.systems.test_metamorph import PAINTER, UNET, VISION
from unijax.core import cost, tree
from unijax.core.system import init_shapes
from unijax.models.autoencoder import AutoencoderConfig
from unijax.ops.image import to_signed
from unijax.systems.features import VisualiserConfig
from unijax.systems.painter import Painter
from unijax.systems.visualiser import RECIPE, SIZES, Visualiser, VisualiserSystemConfig
from unijax.train.stage import Rule

SIZE = 16  # of pictures; the tower sees 15 of them, the autoencoder all
CONFIG = VisualiserSystemConfig(
    VISION,
    VisualiserConfig(
        dataclasses.replace(
            PAINTER,
            unet=dataclasses.replace(UNET, sample_size=8),
            autoencoder=AutoencoderConfig(SIZE, 4, (32, 32), 1, scaling_factor=0.7),
        ),
        hidden=20,
        tokens=6,
    ),
    grid=2,
)
SYSTEM = Visualiser(CONFIG)


class TestVisualiser(ImageSuite):
    small = SmallPictures(
        SYSTEM, (Rule("vision_model/", frozen=True), Rule("autoencoder/", frozen=True)), SIZE
    )
    recipe = RECIPE
    edges = 0.1  # resizing and pooling are products, too
    may_gather = (*ImageSuite.may_gather, "resize", "concatenate")

    def worked(self, batch):
        images = float(batch.weight.size)
        encoded = {cost.encoded_of(n): images for n in ("vision", "latents")}
        return {cost.IMAGES: images} | encoded

    def test_nothing_is_drawn_in_evaluation_that_training_draws_otherwise(self):
        """But conditions, which training drops: of a picture by its seed, whatever the key."""
        batch = self.a_batch()
        loss = jax.jit(functools.partial(self.small.loss, frozen=frozenset()))
        found = [
            float(loss(self.small.params, batch, jax.random.key(seed))[0]["noise"])
            for seed in range(2)
        ]
        assert found[0] == found[1]


SMALL = TestVisualiser.small
PARAMS = SMALL.params


def test_its_condition_is_the_released_projectors():
    """Linear, norm, ReLU, linear, norm; then zeros (`SimplifiedSigLIPProjector`)."""
    features = np.random.default_rng(0).standard_normal((2, 4, 16), np.float32)
    p = {n: {k: torch.from_numpy(np.array(x)) for k, x in leaves.items()}
         for n, leaves in PARAMS["condition"].items()}  # fmt: skip
    x = torch.from_numpy(features) @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    x = functional.layer_norm(x, (20,), p["norm1"]["scale"], p["norm1"]["bias"])
    x = torch.relu(x) @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    want = functional.layer_norm(x, (12,), p["norm2"]["scale"], p["norm2"]["bias"])
    found = SYSTEM.conditioned(PARAMS, jnp.asarray(features))
    np.testing.assert_allclose(found[:, :4], want, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, 6, 12)
    assert not np.any(found[:, 4:])


def test_its_loss_is_the_painters_of_what_the_tower_saw():
    batch = SMALL.batch([1, 0, 1])
    loss = jax.jit(functools.partial(SMALL.loss, frozen=frozenset()))
    sums, metrics = loss(PARAMS, batch, None)
    pixels = to_signed(batch.pixels)
    features = jax.jit(SYSTEM.encode_features)(PARAMS, pixels)
    painter = Painter(CONFIG.visualiser.painter)
    moments = jax.jit(painter.encode_moments)(PARAMS, pixels)
    condition = SYSTEM.conditioned(PARAMS, features)
    error, _ = jax.jit(painter.errors)(PARAMS, moments, condition, batch.seed)
    np.testing.assert_allclose(sums["noise"], error[0] + error[2], rtol=1e-5)
    cached = batch.replace(features=features, latents=moments)
    again, _ = loss(PARAMS, cached, None)
    np.testing.assert_allclose(again["noise"], sums["noise"], rtol=1e-5)
    quarters = [metrics[f"noise/loss/q{q}"] for q in range(4)]
    np.testing.assert_allclose(np.sum(quarters, axis=0), metrics["noise/loss"], rtol=1e-5)


def test_published_sizes():
    """Stable Diffusion 1.5's U-Net and VAE, SigLIP so400m without head and last norm."""
    sizes = {}
    for path, box in tree.flatten(init_shapes(Visualiser(SIZES["metamorph_visualiser"]))).items():
        group = path.split("/")[0]
        sizes[group] = sizes.get(group, 0) + int(np.prod(box.value.shape))
    assert sizes["unet"] == 859_520_964
    assert sizes["autoencoder"] == 83_653_863
    assert sizes["vision_model"] == 412_984_944
    assert sizes["condition"] == (1152 + 1) * 2048 + 2 * 2048 + (2048 + 1) * 768 + 2 * 768
