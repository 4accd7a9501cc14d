"""Vector quantisation on the unit sphere: the codebook of LlamaGen's and Janus's image tokenizer.

Latents and codebook rows are scaled to length 1 before they are compared, and rows after they are
looked up (arXiv 2110.04627, section 3.2; arXiv 2406.06525, section 3.1), so that the nearest row is
the one with the largest dot product. All in float32: a rounded latent is another code. Older
tokenizers compare by distance instead (arXiv 1711.00937): `nearest_row`.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def unit_norm(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """`x / max(|x|, 1e-12)` over the last dim, in float32."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def nearest_code(
    latents: Float[Array, "*batch d"], codebook: Float[Array, "K d"]
) -> Int[Array, "*batch"]:
    """The int32 row of `codebook` with the smallest angle to each latent; the first of equals."""
    similarity = jnp.einsum(
        "...d,kd->...k",
        unit_norm(latents),
        unit_norm(codebook),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.argmax(similarity, axis=-1).astype(jnp.int32)


def nearest_row(
    latents: Float[Array, "*batch d"], codebook: Float[Array, "K d"]
) -> Int[Array, "*batch"]:
    """The int32 row of `codebook` nearest to each latent; the first of equals."""
    z, rows = latents.astype(jnp.float32), codebook.astype(jnp.float32)
    product = jnp.einsum("...d,kd->...k", z, rows, precision=jax.lax.Precision.HIGHEST)
    # The length of the latent is the same for all rows.
    return jnp.argmin(jnp.sum(rows * rows, axis=-1) - 2 * product, axis=-1).astype(jnp.int32)


def look_up(codes: Int[Array, "*batch"], codebook: Float[Array, "K d"]) -> Float[Array, "*batch d"]:
    """Rows of `codebook` scaled to length 1, float32."""
    return unit_norm(jnp.take(codebook, codes, axis=0))


def straight_through(
    latents: Float[Array, "*batch d"], quantised: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    """The value of `quantised` with the gradient of `latents` (arXiv 1711.00937, section 3.2)."""
    return latents + jax.lax.stop_gradient(quantised - latents)
