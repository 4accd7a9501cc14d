"""Norms without parameters."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def standardise(x: Float[Array, "*batch d"], epsilon: float) -> Float[Array, "*batch d"]:
    """Mean 0 and variance 1 over the last dim (arXiv 1607.06450), float32."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
