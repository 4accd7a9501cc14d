"""Arguments that do not fit together: every implementation of attention refuses them by name."""

import jax.numpy as jnp
import numpy as np


def changed(**changes):
    """Of arguments of attention: other values, or what a function makes of the present ones."""
    return lambda args: args | {k: f(args[k]) if callable(f) else f for k, f in changes.items()}


# What does not fit together, and what the error says of it.
MISTAKES = {
    "fewer values than keys": (changed(v=lambda x: x[:, 1:]), "k and v: found shapes"),
    "wider values": (changed(v=lambda x: jnp.tile(x, 2)), "k and v: found shapes"),
    "more value heads": (changed(v=lambda x: jnp.tile(x, (1, 1, 2, 1))), "k and v: found shapes"),
    "rows that differ": (changed(q=lambda x: jnp.tile(x, (2, 1, 1, 1))), "found 2 rows of head"),
    "head dims that differ": (changed(q=lambda x: x[..., 1:]), "the same rows and head dim"),
    "no head dim": (changed(q=lambda x: x[0]), "q: found shape"),
    "heads that do not divide": (
        changed(k=lambda x: jnp.tile(x, (1, 1, 3, 1)), v=lambda x: jnp.tile(x, (1, 1, 3, 1))),
        "2 query heads and 3 key heads",
    ),
    "no key heads": (changed(k=lambda x: x[:, :, :0], v=lambda x: x[:, :, :0]), "and 0 key heads"),
    "dtypes that differ": (changed(k=lambda x: x.astype(jnp.float16)), "found dtypes"),
    "whole numbers": (
        changed(**{name: lambda x: x.astype(jnp.int32) for name in "qkv"}), "found dtypes int32"
    ),
    "fewer starts than queries": (changed(kv_start=lambda x: x[:, 1:]), "kv_start: found int32"),
    "ends of other rows": (changed(kv_end=lambda x: jnp.tile(x, (2, 1))), "kv_end: found int32"),
    "ends for every head": (changed(kv_end=lambda x: x[..., None]), "kv_end: found int32"),
    "ends that are no integers": (
        changed(kv_end=lambda x: x.astype(jnp.float32)), "kv_end: found float32"
    ),
    "ends that are a mask": (changed(kv_end=lambda x: x > 0), "kv_end: found bool"),
    "an end beyond the keys": (changed(kv_end=lambda x: x + 1), "kv_end > "),
    "a start that decreases": (changed(kv_start=lambda x: x.at[0, 0].set(1)), "decreasing kv_st"),
    **{
        f"{name}={number}": (changed(**{name: number}), f"{name}: found")
        for name in ("scale", "soft_cap")
        for number in (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-39, 1e39)
    },
}  # fmt: skip
