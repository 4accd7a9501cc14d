"""What a picture drops in training: a function of its seed, never of its place in a batch."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, UInt32

from unijax.ops.draws import keys_of


def drop_path_scales(
    seed: UInt32[Array, " B"], layers: int, rate: float
) -> Float[Array, "layers B 2"]:
    """Factors of the two branches of every block: 0 where dropped, `1 / (1 - its rate)` elsewhere.

    Args:
      rate: of the last block; the first has 0, those between lie evenly between.
    """
    keep = 1.0 - jnp.linspace(0.0, rate, layers)[:, None]
    draw = lambda key: jax.random.bernoulli(key, keep, (layers, 2)) / keep  # noqa: E731
    return jax.vmap(draw, out_axes=1)(keys_of(seed, "drop path"))


def kept_count(patches: int, rate: float) -> int:
    """How many patches remain of so many."""
    return max(1, int(patches * (1.0 - rate)))


def kept_patches(seed: UInt32[Array, " B"], patches: int, rate: float) -> Int[Array, "B kept"]:
    """Indices, ascending, of the `kept_count` patches that each picture keeps (arXiv 2212.00794).

    Every set of so many is equally likely.
    """
    kept = kept_count(patches, rate)
    draw = lambda key: jax.random.permutation(key, patches)[:kept]  # noqa: E731
    return jnp.sort(jax.vmap(draw)(keys_of(seed, "patches")), axis=1)
