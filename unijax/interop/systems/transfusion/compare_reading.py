"""What is compared of a LLaVAFusion: all that is of a Transfusion, and rows that show pictures.

Such a row has a picture that is read, one that is to be changed, and one that is drawn.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop.interface import Outputs
from unijax.interop.opening import ForeignModel
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.interop.systems.transfusion import compare
from unijax.interop.systems.transfusion.compare import (
    GUIDANCE,
    STEPS,
    check_code,
    first,
    guided_drawing,
    last,
)
from unijax.ops.rows import place
from unijax.ops.tiles import cut
from unijax.systems.llavafusion import LLaVAFusion, LLaVAFusionConfig
from unijax.systems.transfusion import IMAGE

CODE = "modeling_llavafusion.py"
CLEAN = -1.0  # a timestep


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison.

    Attributes:
      plain: those of a Transfusion, of which the rows here have their texts and what is drawn.
      shown: float32 [B, side, side, 3] in -1..1, to be read.
      source: float32 [B, h, w, C], latents of what is to be changed.
    """

    plain: compare.Prompts
    shown: np.ndarray
    source: np.ndarray


def prompts(
    config: LLaVAFusionConfig, directory: pathlib.Path, rng: np.random.Generator
) -> Prompts:
    """At random."""
    plain = compare.prompts(config, directory, rng)
    side = config.image_size
    # Of bytes: what is made smaller is rounded to such levels.
    levels = rng.integers(0, 256, (ROWS, side, side, 3)).astype(np.float32)
    source = rng.standard_normal(plain.latents.shape, dtype=np.float32)
    return Prompts(plain, levels / np.float32(127.5) - 1, source)


def ours(config: LLaVAFusionConfig, params: Params, given: Prompts, theirs: Outputs) -> Outputs:
    """Our outputs, as `theirs` has them."""
    plain, n = given.plain, config.num_tokens
    before, after = plain.before, plain.after
    parts = [
        (Kind.TEXT, before),
        (Kind.UND, addresses(config.picture_tokens)),
        (Kind.TEXT, after),
        (Kind.GEN, addresses(n)),
        (Kind.TEXT, before),
        (Kind.GEN, addresses(n, slot=1)),
    ]
    latents = slots(latents=np.stack([given.source, plain.latents], axis=1))
    edits = rows(parts, **{IMAGE: latents})
    behind = rows([*parts, (Kind.TEXT, after)], **{IMAGE: latents})
    pictures = given.shown, given.source, plain.latents, plain.timestep, plain.noise
    found = _forward(config, params, behind, edits, *pictures)
    of_plain = compare.ours(LLaVAFusion, config, params, plain, theirs)
    return of_plain | jax.device_get(found)


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: LLaVAFusionConfig,
    params: Params,
    behind: PackedBatch,
    edits: PackedBatch,
    shown: Array,
    source: Array,
    latents: Array,
    timestep: Array,
    noise: Array,
) -> dict[str, Array]:
    """`edits` are rows that end with the picture that is drawn, `behind` have text there too."""
    system, n = LLaVAFusion(config), config.num_tokens
    pictures = system.embed_und(params, system.encode_und(params, shown))
    changed, _ = system.embed_latents(params, source, jnp.full(ROWS, CLEAN))

    def row(batch: PackedBatch, latents: Array, timestep: Array) -> tuple[Array, Array]:
        """Hidden states of rows, and the noise that they predict."""
        patches, kept = system.embed_latents(params, latents, timestep)
        ids = jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0)
        x = place(
            system.embed_text(params, ids), pictures[:, None], batch.tokens, batch.kind == Kind.UND
        )
        images = jnp.concatenate([changed, patches], axis=1)  # as their slots are numbered
        x = place(x, images[:, None], batch.tokens, batch.kind == Kind.GEN)
        hidden = system.states(params, x, batch)
        start = edits.tokens.shape[1] - n
        noise = system.predict_noise(params, hidden[:, start : start + n], kept, timestep)
        return hidden, noise

    # Both rows show pictures; the second stands for no condition.
    edited = guided_drawing(system, lambda x, timestep: row(edits, x, timestep)[1], noise)
    hidden, predicted = row(behind, latents, timestep)
    return {
        "pictures": pictures,
        "shown text": system.text_logits(params, hidden),
        "shown noise": predicted,
        "edited": edited,
    }


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of an export, channels last as ours.

    Returns:
      those of a Transfusion; `pictures` [B, M, D], tokens of those that are read; `shown text`
      logits and `shown noise` of rows with pictures, `edited` latents of a few guided steps.

    Raises:
      UserError: if a file beside the weights is another than the one that runs here.
    """
    for name in (compare.CODE, CODE):
        check_code(model.directory, name)
    import torch

    from unijax.interop.systems.transfusion.modeling_llavafusion import LLaVAFusion as Torch

    network, plain = Torch.from_pretrained(model.directory), given.plain
    before, after = torch.from_numpy(plain.before), torch.from_numpy(plain.after)
    # As ours are made smaller, which another library may do a level off.
    views = torch.from_numpy(np.array(cut(jnp.asarray(given.shown), model.config.tiles)))
    views = views.movedim(-1, 2)
    with torch.no_grad():
        pictures = network.embed_pictures(views)
        timestep = torch.from_numpy(plain.timestep)
        changed, _ = network.embed_latents(first(given.source), torch.full((ROWS,), CLEAN))
        patches, skips = network.embed_latents(first(plain.latents), timestep)
        parts = [
            (network.embed_text(before), 0),
            (pictures, 0),
            (network.embed_text(after), 0),
            (changed, 1),
            (network.embed_text(before), 0),
            (patches, 2),
            (network.embed_text(after), 0),
        ]

        def joined(parts: list) -> tuple[torch.Tensor, torch.Tensor]:
            image = [torch.full(x.shape[:2], number) for x, number in parts]
            return torch.cat([x for x, _ in parts], dim=1), torch.cat(image, dim=1)

        hidden = network.hidden_states(*joined(parts))
        start = sum(x.shape[1] for x, _ in parts[:5])
        noise = network.predict_noise(hidden[:, start : start + patches.shape[1]], skips, timestep)
        x, image = joined(parts[:5])
        drawn = network.draw(
            (x[:1], image[:1]), (x[1:], image[1:]), STEPS, GUIDANCE,
            noise=first(plain.noise), fresh=torch.stack([first(x) for x in plain.fresh]),
        )  # fmt: skip
        out = {
            "pictures": pictures,
            "shown text": network.text_logits(hidden),
            "shown noise": last(noise),
            "edited": last(drawn),
        }
    found = {name: value.float().numpy() for name, value in out.items()}
    return compare.outputs(network, plain) | found
