"""Random keys by name: what is drawn for one part does not hang on which others there are."""

import zlib

import jax
from jax import Array


def named(key: Array, name: str) -> Array:
    """The key of a part, a function of `key` and the part's name alone."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
