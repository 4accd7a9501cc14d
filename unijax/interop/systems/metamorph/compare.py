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
from unijax.interop import painter_part
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
    import transformers
    from torch.nn import functional

    c, weights = model.config, model.weights
    v = c.vision
    keys = transformers.SiglipVisionConfig(
        hidden_size=v.hidden_size, intermediate_size=v.intermediate_size,
        num_hidden_layers=v.num_hidden_layers, num_attention_heads=v.num_attention_heads,
        image_size=v.image_size, patch_size=v.patch_size, layer_norm_eps=v.layer_norm_eps,
        hidden_act={"gelu_tanh": "gelu_pytorch_tanh"}.get(v.hidden_act, v.hidden_act),
        vision_use_head=False, attn_implementation="eager",
    )  # fmt: skip
    tower = transformers.SiglipVisionModel(keys)
    tower = loaded(tower, weights, "vision_tower/", ("post_layernorm", "embeddings.position_ids"))
    llama = live_llama(c.text, weights)
    width = c.text.hidden_size

    def projections(*widths: int) -> torch.nn.Sequential:
        first, second = (torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        return torch.nn.Sequential(first, torch.nn.GELU(), second)

    aligner = loaded(projections(v.hidden_size, width, width), weights, "model.mm_projector.")
    head = loaded(projections(width, width, v.hidden_size), weights, "vision_head.")
    with torch.no_grad():
        pixels = torch.from_numpy(np.moveaxis(given.pixels, -1, 1).copy())
        seen = tower(pixel_values=pixels, output_hidden_states=True)
        last = seen.last_hidden_state if v.features == "post_norm" else seen.hidden_states[-1]
        side = round(last.shape[1] ** 0.5)
        square = last.reshape(ROWS, side, side, -1).permute(0, 3, 1, 2)
        pooled = functional.interpolate(
            square, size=(c.grid, c.grid), mode="bilinear", align_corners=False
        )
        features = functional.normalize(pooled.flatten(2).transpose(1, 2), p=2, dim=-1)
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
            out["condition"] = _condition(c, weights, features)
    found = {name: x.float().numpy() for name, x in out.items()}
    if c.visualiser is None:
        return found
    arrays = {"noised": given.noised, "timestep": _TIMESTEPS, "condition": found["condition"]}
    return found | painter_part.theirs(model.directory, arrays | {"picture": given.picture})


def _condition(config: MetaMorphConfig, weights, features):
    """The projector of the release's visualiser (`SimplifiedSigLIPProjector`, two layers)."""
    import torch

    visualiser = config.visualiser
    widths = (
        config.vision.hidden_size, visualiser.hidden,
        visualiser.painter.unet.cross_attention_dim,
    )  # fmt: skip
    module = torch.nn.Module()
    pairs = list(itertools.pairwise(widths))
    module.layers = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in pairs])
    module.norms = torch.nn.ModuleList([torch.nn.LayerNorm(b) for _, b in pairs])
    module = loaded(module, weights, "projector/")
    x = torch.relu(module.norms[0](module.layers[0](features)))
    x = module.norms[1](module.layers[1](x))
    return torch.nn.functional.pad(x, (0, 0, 0, visualiser.tokens - x.shape[1]))
