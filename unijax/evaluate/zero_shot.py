"""Zero-shot classification: a picture is of the class whose prompts it is nearest to.

As in CLIP (arXiv 2103.00020, section 3.1.4): a class is put into several prompts, the unit vectors
of which are averaged and brought back to unit length.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.system import Params, TextSystem
from unijax.data.captions import CaptionTokenizer
from unijax.ops.image import to_signed
from unijax.ops.quantize import unit_norm


def prompt_ids(
    tokenizer: CaptionTokenizer, classes: Sequence[str], prompts: Sequence[str], length: int
) -> tuple[Int[np.ndarray, "C P S"], Int[np.ndarray, "C P"]]:
    """Right-padded ids of every class in every prompt, and how many they are.

    Args:
      prompts: with `{}` where the class stands.
      length: S, of the longest that is read; longer ones are cut.

    Raises:
      UserError: for a prompt in which no class stands.
    """
    if wrong := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise UserError(
            "validation.prompts", f"{wrong[0]!r}", "a text with one {}, where the class stands",
            "Correct it.",
        )  # fmt: skip
    ids = np.zeros((len(classes), len(prompts), length), np.int32)
    lengths = np.zeros(ids.shape[:2], np.int32)
    for i, name in enumerate(classes):
        for j, prompt in enumerate(prompts):
            found = tokenizer.caption(prompt.replace("{}", name), length)
            ids[i, j, : len(found)], lengths[i, j] = found, len(found)
    return ids, lengths


def class_vectors(
    system: TextSystem,
    params: Params,
    ids: Int[Array, "C P S"],
    length: Int[Array, "C P"],
) -> Float[Array, "C D"]:
    """The unit vector of every class."""
    of_prompts = system.embed_texts(params, ids.reshape(-1, ids.shape[-1]), length.reshape(-1))
    return unit_norm(jnp.mean(of_prompts.reshape(*ids.shape[:2], -1), axis=1))


def judge(
    system: TextSystem, ids: Int[np.ndarray, "C P S"], length: Int[np.ndarray, "C P"]
) -> Callable[[Params, ImageBatch], tuple[Array, Array]]:
    """Compiled: of a batch, how many pictures are given their label, and how many there are."""

    @jax.jit
    def right(params: Params, batch: ImageBatch) -> tuple[Array, Array]:
        classes = class_vectors(system, params, jnp.asarray(ids), jnp.asarray(length))
        images = system.embed_images(params, to_signed(batch.pixels, system.dtype))
        found = jnp.argmax(images @ classes.T, axis=1) == batch.label
        return jnp.sum(batch.weight * found), jnp.sum(batch.weight)

    return right
