"""Attention with a ReLU kernel in place of the softmax: linear in the number of positions."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

EPSILON = 1e-15  # of the sum of the weights


def linear_attention(
    q: Float[Array, "B N H D"], k: Float[Array, "B M H D"], v: Float[Array, "B M H D"]
) -> Float[Array, "B N H D"]:
    """`sum_m w_m v_m / sum_m w_m` with `w_m = relu(q) . relu(k_m)`, every key seen by every query.

    In float32, returned in the dtype of `q` (arXiv 2205.14756, section 3.1; arXiv 2410.10629,
    section 2.2).
    """
    dtype = q.dtype
    q, k = (jax.nn.relu(x.astype(jnp.float32)) for x in (q, k))
    memory = jnp.einsum("bmhd,bmhe->bhde", k, v.astype(jnp.float32))
    total = jnp.einsum("bnhd,bhd->bnh", q, jnp.sum(k, axis=1))
    y = jnp.einsum("bnhd,bhde->bnhe", q, memory) / (total[..., None] + EPSILON)
    return y.astype(dtype)
