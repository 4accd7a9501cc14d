"""What drawing and writing share: a prompt at once, then a token at a time, in a static cache.

The prompts of a batch end together: one of n ids stands in the last n of P columns, and
`start = P - n` is the first column that its row ever sees. So all rows write their next entry in
the same column, and what each of them sees is one interval.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, UInt32

from unijax.core.batch import PackedBatch
from unijax.core.system import Params, RowSystem
from unijax.ops.attention import packed_intervals

# The cache of a long answer grows in this many parts, so that its first tokens do not read room
# that only its last ones fill; no part is shorter than LEAST, as each is compiled.
PARTS, LEAST = 4, 64


def bucket(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: few lengths, hence few programs to compile."""
    size = 16
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def begin(
    system: RowSystem, params: Params, prompt: PackedBatch, start: Int[Array, "B"]
) -> tuple[Float[Array, "B D"], Any]:
    """Hidden states at the end of the prompts, and the cache, which they fill."""
    b, width = prompt.tokens.shape
    cache = system.init_cache(b, width)
    position = jnp.maximum(jnp.arange(width, dtype=jnp.int32) - start[:, None], 0)
    seen = packed_intervals(prompt.segment, prompt.kind, prompt.image, system.sees_whole)
    x = system.embed(params, prompt)
    hidden, cache = system.decode(params, x, position, *seen, cache)
    return hidden[:, -1], cache


def step(
    system: RowSystem, params: Params, x: Float[Array, "B D"], start: Int[Array, "B"], cache: Any
) -> tuple[Float[Array, "B D"], Any]:
    """Hidden states of one more token a row, and the cache with it."""
    end = jnp.broadcast_to(cache.length + 1, (x.shape[0], 1))
    position = cache.length - start[:, None]
    hidden, cache = system.decode(params, x[:, None], position, start[:, None], end, cache)
    return hidden[:, 0], cache


def grown(cache: Any, space: int) -> Any:
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
