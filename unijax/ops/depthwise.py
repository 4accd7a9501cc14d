"""Depthwise convolution: one kernel for each channel."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Pads = tuple[tuple[int, int], tuple[int, int]]  # above and below, left and right


def depthwise(
    x: Float[Array, "B height width c"],
    kernel: Float[Array, "k k c"],
    padding: Pads,
    stride: int = 1,
) -> Float[Array, "B h w c"]:
    """As shifted multiply-adds: XLA's grouped convolution is very slow on CPU."""
    k = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((n - k) // stride * stride + 1 for n in padded.shape[1:3])
    return sum(
        padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j]
        for i in range(k)
        for j in range(k)
    )
