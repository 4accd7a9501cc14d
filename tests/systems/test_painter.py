"""The painter against diffusers: what it learns, and what it paints of vectors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.latent_oracles import diffusers
from tests.weights import distance, randomise
from unijax.core.errors import UserError
from unijax.core.making import Painting
from unijax.interop import diffusers_parts
from unijax.interop.diffusers_configs import config_json
from unijax.models.autoencoder import AutoencoderConfig, Posterior
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import draw_noise
from unijax.sample.painting import paint
from unijax.systems.painter import Painter, PainterConfig

UNET = UNetConfig(
    4, block_out_channels=(32, 32), layers_per_block=1, attention_levels=(True, False),
    cross_attention_dim=24, num_attention_heads=4,
)  # fmt: skip
CONFIG = PainterConfig(UNET, AutoencoderConfig(8, 4, (32, 32), 1, scaling_factor=0.7), steps=5)
PAINTER = Painter(CONFIG)
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SEEDS = jnp.array([3, 4], jnp.uint32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """diffusers' U-Net, and our parameters with its weights."""
    theirs = randomise(diffusers.UNet2DConditionModel.from_config(config_json(UNET)))
    folder = tmp_path_factory.mktemp("unet") / "unet"
    theirs.save_pretrained(folder)
    return theirs, {"unet": diffusers_parts.read(folder)[1]}


def vectors(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, 5, 24)), jnp.float32)


def first(x) -> torch.Tensor:
    """Channels first."""
    return torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())


def test_its_loss_is_that_of_diffusers_networks(network):
    """DDPM's noising, the network, a mean over each picture: the released training scripts'."""
    theirs, params = network
    rng = np.random.default_rng(0)
    moments = jnp.asarray(rng.standard_normal((2, 4, 4, 8)), jnp.float32)
    found, timestep = jax.jit(PAINTER.errors)(params, moments, vectors(1), SEEDS)
    latents = first(0.7 * np.asarray(Posterior.of(moments).sample(SEEDS)))
    noise = first(draw_noise(SEEDS, (4, 4, 4)))
    t = torch.from_numpy(np.array(timestep)).long()
    noised = diffusers.DDPMScheduler(**SCHEDULE).add_noise(latents, noise, t)
    with torch.no_grad():
        said = theirs(noised, t, torch.from_numpy(np.array(vectors(1)))).sample
    want = ((said - noise) ** 2).mean(dim=(1, 2, 3))
    np.testing.assert_allclose(found, want, rtol=1e-4)
    assert len({*np.asarray(timestep).tolist()}) == 2


@dataclasses.dataclass(frozen=True)
class Shows(Painter):
    """As a recipe has it."""

    @property
    def painting(self) -> Painting:
        return super().painting(condition="shown", predict="predict", sampler="sampler_of")

    def shown(self, params, vectors):
        return 2.0 * vectors


@pytest.mark.parametrize("free", ["none", "zeros", "prompt"])
def test_it_paints_as_stable_diffusions_pipeline_does(free, network):
    """PNDM with the flags of the release; the branches of guidance in one batch."""
    theirs, params = network
    system = Shows(CONFIG)
    guidance = None if free == "none" else 7.5
    others = vectors(2) if free == "prompt" else None
    run = functools.partial(paint, system, system.painting, params)
    scale = None if guidance is None else jnp.float32(guidance)
    found = run(vectors(1), others, SEEDS, scale, 5)
    scheduler = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1)
    scheduler.set_timesteps(5)
    shown = 2 * torch.from_numpy(np.array(vectors(1)))
    without = torch.zeros_like(shown) if others is None else 2 * torch.from_numpy(np.array(others))
    x = first(draw_noise(SEEDS, (4, 4, 4)))
    for t in scheduler.timesteps:
        with torch.no_grad():
            said = theirs(x, t, shown).sample
            if guidance is not None:
                nothing = theirs(x, t, without).sample
                said = nothing + guidance * (said - nothing)
        x = scheduler.step(said, t, x).prev_sample
    assert distance(found, x.permute(0, 2, 3, 1)) <= 1e-4
    if free == "zeros":
        alone = run(vectors(1)[1:], None, SEEDS[1:], scale, 5)
        np.testing.assert_allclose(found[1], alone[0], rtol=1e-4, atol=1e-4)


def test_vectors_are_dropped_as_often_as_it_says_and_whole():
    seeds = jnp.arange(4000, dtype=jnp.uint32)
    kept = np.asarray(PAINTER.dropped(jnp.ones((4000, 2, 3)), seeds))
    share = 1 - kept[:, 0, 0].mean()
    assert abs(share - CONFIG.drop) < 0.02
    assert (kept == kept[:, :1, :1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet": dataclasses.replace(UNET, sample_size=8)}, r"sample_size: found 8; expected 4"),
        ({"unet": dataclasses.replace(UNET, in_channels=8)}, r"in_channels: found 8; expected 4"),
        ({"unet": dataclasses.replace(UNET, mid_block=False)}, "expected the width of the vectors"),
        ({"sampler": "plms"}, r"sampler: found 'plms'; expected one of \['ddpm'"),
        ({"free": "nothing"}, "painter.free: found 'nothing'"),
        ({"drop": 1.0}, "painter.drop: found 1.0"),
        ({"prediction": "sample"}, "painter.prediction: found 'sample'"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(UserError, match="cross_attention_dim: found 24; expected 32, the width of"):
        CONFIG.check_width("the decoder", 32)
