"""What drawing and writing share: a prompt at once, then a token at a time, in a static cache.

The prompts of a batch end together: one of n ids stands in the last n of P columns, and
`start = P - n` is the first column that its row ever sees. So all rows write their next entry in
the same column, and what each of them sees is one interval.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, UInt32

from unijax.core.system import Params
from unijax.models.llama import KVCache, init_cache
from unijax.nn.stack import unstack
from unijax.systems.janus import Janus

# The cache of a long answer grows in this many parts, so that its first tokens do not read room
# that only its last ones fill; no part is shorter than LEAST, as each is compiled.
PARTS, LEAST = 4, 64

ENCODERS = ("vision_model", "vqmodel")


def bucket(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: few lengths, hence few programs to compile."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def for_decoding(system: Janus, params: Params) -> Params:
    """Parameters as the functions here take them.

    Layers of the decoder lie apart, and all but the encoders are cast to the dtype of compute once,
    instead of at every token: to the same bits.
    """
    cast = {
        group: jax.tree.map(lambda x: x.astype(system.dtype), leaves)
        for group, leaves in params.items()
        if group not in ENCODERS
    }
    cast["language_model"] = unstack(cast["language_model"], "layers")
    return params | cast


def begin(
    system: Janus, params: Params, x: Float[Array, "B P D"], start: Int[Array, "B"]
) -> tuple[Float[Array, "B D"], KVCache]:
    """Hidden states at the end of the prompts, and the cache, which they fill."""
    b, width, _ = x.shape
    column = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (b, width))
    first = jnp.broadcast_to(start[:, None], column.shape)
    cache = init_cache(system.config.text, b, width, system.dtype)
    position = jnp.maximum(column - first, 0)
    hidden, cache = _decoder(system, params, x, position, first, column + 1, cache)
    return hidden[:, -1], cache


def step(
    system: Janus, params: Params, x: Float[Array, "B D"], start: Int[Array, "B"], cache: KVCache
) -> tuple[Float[Array, "B D"], KVCache]:
    """Hidden states of one more token a row, and the cache with it."""
    end = jnp.broadcast_to(cache.length + 1, (x.shape[0], 1))
    position = cache.length - start[:, None]
    hidden, cache = _decoder(system, params, x[:, None], position, start[:, None], end, cache)
    return hidden[:, 0], cache


def _decoder(system: Janus, params: Params, x, position, kv_start, kv_end, cache):
    kv_end = jnp.maximum(kv_end, kv_start)  # columns before a prompt see nothing
    decoder = system.language_model.clone(unrolled=True)
    weights = {"params": params["language_model"]}
    return decoder.apply(weights, x, position, kv_start, kv_end, cache)


def grown(cache: KVCache, space: int) -> KVCache:
    """The cache with room for `space` entries."""
    more = [(0, 0), (0, 0), (0, space - cache.k[0].shape[2]), (0, 0)]
    k, v = jax.tree.map(lambda x: jnp.pad(x, more), (cache.k, cache.v))
    return cache.replace(k=k, v=v)


def parts(steps: int) -> list[tuple[int, int]]:
    """[first, last) of each part of `steps` steps."""
    size = max(LEAST, -(-steps // PARTS))
    return [(first, min(first + size, steps)) for first in range(0, steps, size)]


def row_keys(seeds: UInt32[Array, "B"], at: Int[Array, ""] | int) -> Key[Array, "B"]:
    """The key of every row at a step: of the row's own seed alone."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), at))(seeds)
