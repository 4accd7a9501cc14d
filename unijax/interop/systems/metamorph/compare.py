"""What is compared of a MetaMorph: rows with a picture, features, and the visualiser's networks.

The other side is transformers' Llama and SigLIP, torch's interpolation, and diffusers' networks.
"""

import dataclasses
import functools
import itertools
import pathlib

import jax
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop import painter_part, visualiser_part
from unijax.interop.interface import Outputs
from unijax.interop.live_llama import live_llama, loaded
from unijax.interop.opening import ForeignModel
from unijax.interop.painter_part import Pictures
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.systems.metamorph import IMAGE, MetaMorph, MetaMorphConfig

_WORDS = 10  # random text ids before the picture, and behind it


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs: ids [B, n] around the picture, and what is shown."""

    before: np.ndarray
    after: np.ndarray
    shown: Pictures


def prompts(config: MetaMorphConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """At random."""
    del directory
    before, after = rng.integers(0, config.text.vocab_size, (2, ROWS, _WORDS))
    painter = config.visualiser and config.visualiser.painter
    return Prompts(before, after, painter_part.pictures(config.vision.image_size, painter, rng))


def ours(config: MetaMorphConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    image = (Kind.GEN, addresses(config.num_tokens))
    parts = [(Kind.TEXT, given.before), image, (Kind.TEXT, given.after)]
    batch = rows(parts, **{IMAGE: slots(features=theirs["features"][:, None])})
    return jax.device_get(_forward(config, params, batch, given.shown, theirs["features"]))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: MetaMorphConfig,
    params: Params,
    batch: PackedBatch,
    shown: Pictures,
    features: Array,
) -> dict[str, Array]:
    system = MetaMorph(config)
    hidden = system.states(params, system.embed(params, batch), batch)
    out = {
        "features": system.encode_features(params, shown.pixels),
        "hidden": hidden,
        "text": system.text_logits(params, hidden),
        "vectors": system.predict(params, hidden),
    }
    if config.visualiser is None:
        return out
    condition = system.conditioned(params, features)
    out["condition"] = condition
    return out | painter_part.ours(system.painter, params, shown, condition)


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
    features = visualiser_part.their_features(c.vision, c.grid, weights, given.shown.pixels)
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
    return found | painter_part.theirs(model.directory, given.shown, found["condition"])
