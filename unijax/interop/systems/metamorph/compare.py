"""What is compared of a MetaMorph: rows with a picture, features, and the visualiser's networks.

The other side is transformers' Llama and SigLIP, torch's interpolation, and diffusers' networks.
"""

import dataclasses
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop import painter_part, visualiser_part
from unijax.interop.interface import Outputs
from unijax.interop.live_llama import live_llama, loaded
from unijax.interop.opening import ForeignModel
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.systems.metamorph import IMAGE, MetaMorph, MetaMorphConfig

_WORDS = 10  # random text ids before the picture, and behind it
_TIMESTEPS = np.array([3.0, 700.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs: ids [B, n] around the picture, pixels in -1..1 of the tower's size and of the
    autoencoder's, and noised latents."""

    before: np.ndarray
    after: np.ndarray
    pixels: np.ndarray
    picture: np.ndarray
    noised: np.ndarray


def prompts(config: MetaMorphConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """At random."""
    del directory
    ids, size, v = config.text.vocab_size, config.vision.image_size, config.visualiser
    side, grid, channels = 1, 1, 1
    if v is not None:
        ae = v.painter.autoencoder
        side, grid, channels = ae.image_size, ae.grid, ae.latent_channels
    uniform = lambda n: rng.uniform(-1, 1, (ROWS, n, n, 3)).astype(np.float32)  # noqa: E731
    return Prompts(
        rng.integers(0, ids, (ROWS, _WORDS)),
        rng.integers(0, ids, (ROWS, _WORDS)),
        uniform(size),
        uniform(side),
        rng.standard_normal((ROWS, grid, grid, channels), np.float32),
    )


def ours(config: MetaMorphConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    image = (Kind.GEN, addresses(config.num_tokens))
    parts = [(Kind.TEXT, given.before), image, (Kind.TEXT, given.after)]
    batch = rows(parts, **{IMAGE: slots(features=theirs["features"][:, None])})
    arrays = given.pixels, given.picture, given.noised, theirs["features"]
    return jax.device_get(_forward(config, params, batch, *arrays))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: MetaMorphConfig,
    params: Params,
    batch: PackedBatch,
    pixels: Array,
    picture: Array,
    noised: Array,
    features: Array,
) -> dict[str, Array]:
    system = MetaMorph(config)
    hidden = system.states(params, system.embed(params, batch), batch)
    out = {
        "features": system.encode_features(params, pixels),
        "hidden": hidden,
        "text": system.text_logits(params, hidden),
        "vectors": system.predict(params, hidden),
    }
    if config.visualiser is None:
        return out
    condition = system.conditioned(params, features)
    return out | {
        "condition": condition,
        "noise": system.predict_noise(params, noised, jnp.asarray(_TIMESTEPS), condition),
        "latents": system.painter.encode_latents(params, picture),
        "decoded": system.painter.autoencoder.apply(
            {"params": params["autoencoder"]}, noised, method="decode"
        ),
    }


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of a directory, channels last."""
    import torch
    from torch.nn import functional

    c, weights = model.config, model.weights
    llama = live_llama(c.text, weights)
    width = c.text.hidden_size

    def projections(*widths: int) -> torch.nn.Sequential:
        first, second = (torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        return torch.nn.Sequential(first, torch.nn.GELU(), second)

    vision = c.vision.hidden_size
    features = visualiser_part.their_features(c.vision, c.grid, weights, given.pixels)
    aligner = loaded(projections(vision, width, width), weights, "model.mm_projector.")
    head = loaded(projections(width, width, vision), weights, "vision_head.")
    with torch.no_grad():
        words = [llama.model.embed_tokens(torch.from_numpy(x)) for x in (given.before, given.after)]
        x = torch.cat([words[0], aligner(features), words[1]], dim=1)
        hidden = llama.model(inputs_embeds=x).last_hidden_state
        out = {
            "features": features,
            "hidden": hidden,
            "text": llama.lm_head(hidden),
            "vectors": functional.normalize(head(hidden), p=2, dim=-1),
        }
        if c.visualiser is not None:
            out["condition"] = visualiser_part.their_condition(c.visualiser, weights, features)
    found = {name: x.float().numpy() for name, x in out.items()}
    if c.visualiser is None:
        return found
    arrays = {"noised": given.noised, "timestep": _TIMESTEPS, "condition": found["condition"]}
    return found | painter_part.theirs(model.directory, arrays | {"picture": given.picture})
