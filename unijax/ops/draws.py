"""Random numbers that belong to a picture: functions of its seed, never of its place in a batch.

So the parts of an accumulated step, other meshes and other packings draw the same.
"""

import zlib

import jax
from jax import Array
from jaxtyping import Float, Key, UInt32


def keys_of(seed: UInt32[Array, "*batch"], purpose: str) -> Key[Array, "*batch"]:
    """A key for each picture and each use of its seed: equal seeds give equal keys."""
    root = jax.random.key(zlib.crc32(purpose.encode()))
    keys = jax.vmap(lambda s: jax.random.fold_in(root, s))(seed.reshape(-1))
    return keys.reshape(seed.shape)


def normal(keys: Key[Array, "*batch"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal, float32 `[*batch, *shape]`."""
    drawn = jax.vmap(lambda key: jax.random.normal(key, shape))(keys.reshape(-1))
    return drawn.reshape(keys.shape + shape)


def uniform(keys: Key[Array, "*batch"]) -> Float[Array, "*batch"]:
    """In [0, 1), float32."""
    return jax.vmap(jax.random.uniform)(keys.reshape(-1)).reshape(keys.shape)
