"""Sinusoids of timesteps against diffusers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from unijax.ops.sinusoid import sinusoid


@pytest.mark.parametrize("width", [256, 320, 33])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_equal_to_diffusers(width, flip, shift):
    timestep = np.array([0.0, 1.0, 17.25, 500.0, 999.0], "f4")
    theirs = get_timestep_embedding(torch.from_numpy(timestep), width, flip, shift)
    ours = sinusoid(jnp.asarray(timestep), width, flip, shift)
    assert ours.shape == (5, width)
    # A timestep of 999 turns by 999 radians: its rounding is that of float32 at that size.
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours.dtype == jnp.float32


def test_timesteps_of_any_shape():
    timestep = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(sinusoid(timestep, 8).reshape(6, 8), sinusoid(jnp.arange(6.0), 8))
