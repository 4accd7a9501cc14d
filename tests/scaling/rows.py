"""Rows that hold one document each, without padding, so that tokens can be counted by hand."""

import jax.numpy as jnp
import numpy as np

from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.systems.janus import JanusConfig


def one_document_rows(config: JanusConfig) -> tuple[PackedBatch, dict[str, int]]:
    """Text, an image to understand, text, an image to generate; two rows, and what is in them."""
    und, gen, words = config.vision.num_tokens, config.vq.num_tokens, 10
    kinds = [Kind.TEXT] * words + [Kind.UND] * und + [Kind.TEXT] * words + [Kind.GEN] * gen
    images = [0] * words + [1] * und + [0] * words + [2] * gen
    rows, length = 2, len(kinds)
    repeat = lambda x: jnp.asarray(np.tile(np.array(x), (rows, 1)))  # noqa: E731
    first_code = 2 * words + und - 1
    targets = [Target.TEXT] * (words - 1) + [Target.NONE] * (length - words + 1)
    for i in range(first_code, first_code + gen):
        targets[i] = Target.CODE
    slots = lambda size: ImageSlots(  # noqa: E731
        weight=jnp.ones((rows, 1)),
        seed=jnp.zeros((rows, 1), jnp.uint32),
        pixels=jnp.zeros((rows, 1, size, size, 3), jnp.uint8),
    )
    batch = PackedBatch(
        tokens=repeat([0] * length), kind=repeat(kinds), segment=repeat([1] * length),
        position=repeat(range(length)), image=repeat(images), target_kind=repeat(targets),
        target=repeat([0] * length), weight=jnp.ones((rows, length)),
        uid=jnp.zeros((rows, length), jnp.uint32),
        images={"und": slots(config.vision.image_size), "gen": slots(config.vq.image_size)},
    )  # fmt: skip
    counts = {
        "length": length, "text": 2 * rows * words, "und": rows * und, "gen": rows * gen,
        "text_targets": rows * (words - 1), "codes": rows * gen,
    }  # fmt: skip
    return batch, counts
