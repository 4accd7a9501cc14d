"""What is compared of a Transfusion or LMFusion: rows with a noised image, pictures, drawing.

What stands beside the weights of an export runs them: `modeling_transfusion.py` of this package, of
which the export has a copy.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from unijax.core.batch import Kind, PackedBatch
from unijax.core.errors import UserError
from unijax.core.system import Params
from unijax.interop.interface import Outputs
from unijax.interop.opening import ForeignModel
from unijax.interop.rows import ROWS, addresses, rows, slots
from unijax.ops.diffusion import denoise, draw_step_noise
from unijax.systems.transfusion import IMAGE, Transfusion, TransfusionConfig

CODE = "modeling_transfusion.py"
_WORDS = 12  # random text ids around an image
STEPS = 4  # of denoising
GUIDANCE = 3.0


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Inputs of a comparison.

    Attributes:
      before, after: int ids [B, n] around the image.
      latents: float32 [B, h, w, C], the noised image.
      timestep: float32 [B], of its noise; one is clean.
      pixels: float32 [B, height, width, 3] in -1..1, to be encoded.
      unconditional: int ids [1, n] of a row without a prompt.
      noise: float32 [1, h, w, C], what a picture is drawn from.
      fresh: float32 [steps, 1, h, w, C], noise of the steps of drawing.
    """

    before: np.ndarray
    after: np.ndarray
    latents: np.ndarray
    timestep: np.ndarray
    pixels: np.ndarray
    unconditional: np.ndarray
    noise: np.ndarray
    fresh: np.ndarray


SEED = np.array([7], np.uint32)  # of the noise of drawing's steps


def prompts(
    config: TransfusionConfig, directory: pathlib.Path, rng: np.random.Generator
) -> Prompts:
    """At random."""
    del directory
    ae, ids = config.autoencoder, config.text.vocab_size
    shape = (ae.grid, ae.grid, ae.latent_channels)
    steps = range(STEPS)
    fresh = [np.asarray(draw_step_noise(jnp.asarray(SEED), jnp.int32(i), shape)) for i in steps]
    normal = functools.partial(rng.standard_normal, dtype=np.float32)
    return Prompts(
        rng.integers(0, ids, (ROWS, _WORDS)),
        rng.integers(0, ids, (ROWS, _WORDS)),
        normal((ROWS, *shape)),
        np.array([-1.0, config.schedule.num_train_timesteps - 1.0], np.float32),
        rng.uniform(-1, 1, (ROWS, ae.image_size, ae.image_size, 3)).astype(np.float32),
        rng.integers(0, ids, (1, _WORDS)),
        normal((1, *shape)),
        np.stack(fresh),
    )


def ours(
    recipe: type[Transfusion],
    config: TransfusionConfig,
    params: Params,
    given: Prompts,
    theirs: Outputs,
) -> Outputs:
    """Our outputs, as `theirs` has them."""
    del theirs
    both = np.concatenate([given.before[:1], given.unconditional])
    pictures = given.latents, given.timestep, given.pixels, given.noise
    batches = _rows(config, given, given.before, given.after), _rows(config, given, both)
    return jax.device_get(_forward(recipe, config, params, *batches, *pictures))


def _rows(
    config: TransfusionConfig, given: Prompts, before: np.ndarray, *after: np.ndarray
) -> PackedBatch:
    """Texts around an image."""
    image = (Kind.GEN, addresses(config.num_tokens))
    parts = [(Kind.TEXT, before), image, *((Kind.TEXT, text) for text in after)]
    return rows(parts, **{IMAGE: slots(latents=given.latents[:, None])})


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    recipe: type[Transfusion],
    config: TransfusionConfig,
    params: Params,
    batch: PackedBatch,
    guided: PackedBatch,
    latents: Array,
    timestep: Array,
    pixels: Array,
    noise: Array,
) -> dict[str, Array]:
    """`guided` are rows that end with the image, one with a prompt and one without."""
    system = recipe(config)
    image = slice(_WORDS, _WORDS + config.num_tokens)

    def row(batch: PackedBatch, latents: Array, timestep: Array) -> tuple[Array, Array]:
        """Hidden states of rows, and the noise that they predict."""
        patches, kept = system.embed_latents(params, latents, timestep)
        ids = jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0)
        x = system.embed_text(params, ids).at[:, image].set(patches)
        hidden = system.states(params, x, batch)
        return hidden, system.predict_noise(params, hidden[:, image], kept, timestep)

    hidden, predicted = row(batch, latents, timestep)
    return {
        "hidden": hidden,
        "text": system.text_logits(params, hidden),
        "noise": predicted,
        "latents": system.encode_latents(params, pixels),
        "decoded": system.decode_latents(params, latents),
        "drawn": guided_drawing(system, lambda x, timestep: row(guided, x, timestep)[1], noise),
    }


def guided_drawing(
    system: Transfusion, predict: Callable[[Array, Array], Array], noise: Float[Array, "1 h w C"]
) -> Float[Array, "1 h w C"]:
    """Latents of a few guided steps.

    Args:
      predict: the noise in latents [2, h, w, C] at timesteps [2], behind a prompt and without one.
    """

    def guided(x: Array, timestep: Array, kept: None) -> tuple[Array, None]:
        both = predict(jnp.concatenate([x, x]), jnp.broadcast_to(timestep, 2))
        return both[1:] + GUIDANCE * (both[:1] - both[1:]), kept

    return denoise(system.sampler_of(STEPS), noise, guided, jnp.asarray(SEED))


def theirs(model: ForeignModel, given: Prompts) -> Outputs:
    """Outputs of an export, channels last as ours.

    Returns:
      `hidden` [B, T, D], `text` logits [B, T, V] and `noise` [B, h, w, C] of rows with an image,
      `latents` of the pixels, `decoded` pictures, `drawn` latents of a few guided steps.

    Raises:
      UserError: if the file beside the weights is another than the one that runs here.
    """
    check_code(model.directory, CODE)
    from unijax.interop.systems.transfusion.modeling_transfusion import Transfusion as Torch

    return outputs(Torch.from_pretrained(model.directory), given)


def check_code(directory: pathlib.Path, name: str) -> None:
    """Raises UserError if a file beside the weights is another than the one that runs here."""
    beside, own = directory / name, pathlib.Path(__file__).with_name(name)
    if not beside.is_file() or beside.read_bytes() != own.read_bytes():
        raise UserError(
            str(beside), "another file, or none", "the one that this version of unijax exports",
            "Export it again: what stands there is not what was compared.",
        )  # fmt: skip


def first(x: np.ndarray) -> Any:
    """A torch tensor with the channels first."""
    import torch

    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def last(x: Any) -> Any:
    """The inverse, still a tensor."""
    return x.movedim(1, -1)


def outputs(network: Any, given: Prompts) -> Outputs:
    """`theirs`, of the PyTorch model."""
    import torch

    before, after = torch.from_numpy(given.before), torch.from_numpy(given.after)
    with torch.no_grad():
        timestep = torch.from_numpy(given.timestep)
        patches, skips = network.embed_latents(first(given.latents), timestep)
        n, start = patches.shape[1], before.shape[1]
        x = [network.embed_text(before), patches, network.embed_text(after)]
        image = torch.zeros(ROWS, start + n + after.shape[1], dtype=torch.long)
        image[:, start : start + n] = 1
        hidden = network.hidden_states(torch.cat(x, dim=1), image)
        noise = network.predict_noise(hidden[:, start : start + n], skips, timestep)
        drawn = network.draw(
            before[0].tolist(), given.unconditional[0].tolist(), STEPS, GUIDANCE,
            noise=first(given.noise), fresh=torch.stack([first(x) for x in given.fresh]),
        )  # fmt: skip
        out = {
            "hidden": hidden,
            "text": network.text_logits(hidden),
            "noise": last(noise),
            "latents": last(network.encode(first(given.pixels))),
            "decoded": last(network.decode(first(given.latents))),
            "drawn": last(drawn),
        }
    return {name: value.float().numpy() for name, value in out.items()}
