"""Checksums of arrays, made on the device: what is restored is what was saved, on any mesh.

The sum, modulo 2^32, of a hash of every element's bits and place. Whole numbers add up to the same
in any order, so that it does not depend on how an array is split. One element that differs is
always found, as the hash maps no two words to one; several, moved ones too, but for 1 in 2^32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from unijax.core.processes import to_host

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _hash(x: Array) -> Array:
    """Of 32 bits, one to one: the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


def _checksum(x: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for dim in reversed(range(x.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
        place = place + index * jnp.uint32(stride % 2**32)
        stride *= x.shape[dim]
    return jnp.sum(_hash(bits ^ _hash(place)), dtype=jnp.uint32)


@jax.jit
def _checksums(leaves: list[Array]) -> Array:
    return jnp.stack([_checksum(x) for x in leaves])


def checksums(tree: Any) -> dict[str, int]:
    """By path and dtype, of a tree of arrays with elements of 1, 2 or 4 bytes.

    The dtype is part of the name: what is read as another one is not compared. Waits for the
    device.
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = np.asarray(to_host(_checksums([leaf for _, leaf in pairs])))
    names = (f"{jax.tree_util.keystr(p, simple=True, separator='/')} {x.dtype}" for p, x in pairs)
    return {name: int(value) for name, value in zip(names, sums)}
