"""The discriminator: LlamaGen's layout, and independence of the pictures of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.core.errors import UserError
from unijax.models.patchgan import PatchGAN, PatchGANConfig

SMALL = PatchGANConfig(base_channels=8, num_layers=2)


def test_layers_and_patches_are_those_of_the_reference():
    # taming's NLayerDiscriminator(ndf=64, n_layers=3): 64, 128, 256 of stride 2, 512 of stride 1.
    cfg = PatchGANConfig()
    assert cfg.layers == ((64, 2), (128, 2), (256, 2), (512, 1))
    pixels = jnp.zeros((1, 256, 256, 3))
    logits, params = jax.eval_shape(PatchGAN(cfg).init_with_output, jax.random.key(0), pixels)
    assert logits.shape == (1, 30, 30)
    shapes = [p.shape for p in jax.tree.leaves(params) if len(p.shape) == 4]
    assert [s[:2] for s in shapes] == [(4, 4)] * 5
    widest = PatchGANConfig(base_channels=8, num_layers=5).layers
    assert max(c for c, _ in widest) == 64


def test_a_logit_knows_its_own_picture_alone():
    model = PatchGAN(SMALL)
    pixels = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3), minval=-1.0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.1).astype("f4"),
        jax.eval_shape(model.init, jax.random.key(1), pixels),
    )
    whole = jax.jit(model.apply)(params, pixels)
    alone = jax.jit(model.apply)(params, pixels[1:2])
    np.testing.assert_allclose(whole[1:2], alone, rtol=1e-5, atol=1e-6)
    assert float(jnp.std(whole)) > 0


def test_flops_are_those_of_the_program():
    cfg = PatchGANConfig(base_channels=64, num_layers=2)
    pixels = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(PatchGAN(cfg).init, jax.random.key(0), pixels)
    lowered = jax.jit(PatchGAN(cfg).apply).lower(params, pixels)
    # XLA leaves out the products with padding: a few per cent.
    assert lowered.cost_analysis()["flops"] == pytest.approx(cfg.flops_per_image(64), rel=0.1)


def test_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(UserError, match="found 12; expected a multiple of 8"):
        PatchGANConfig(base_channels=12)
