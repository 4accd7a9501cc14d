"""Linen layers with logical axis names on every parameter.

Parameters are created in `param_dtype` and used in `dtype`; norms are computed in float32.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Integer

from unijax.core import axes
from unijax.core.mesh import DATA, FSDP, PARTS, POSITIONS, ROWS, WHOLE, axes_in_use, lay
from unijax.ops.depthwise import depthwise
from unijax.ops.dropout import dropout
from unijax.ops.linear import linear
from unijax.ops.norm import standardise

Initializer = Callable[..., Array]
DEFAULT_INIT = nn.initializers.normal(0.02)


Place = tuple[Integer[Array, "*place"], ...]  # of positions, as `ops.dropout` has it


class Dense(nn.Module):
    """`x @ kernel (+ bias)` over the last dim, and what a low-rank adapter adds.

    An adapter (LoRA, arXiv 2106.09685) is there where the parameters hold one beside the kernel
    (`train.lora`): `lora_scale * dropout(x) @ lora_a @ lora_b`. Where it has a `lora_dropout` and
    `apply` is given an rng "dropout", its input is dropped by `place`.
    """

    features: int
    axes: tuple[str, str]  # logical names of the kernel's dims (in, out)
    use_bias: bool = True
    kernel_init: Initializer = DEFAULT_INIT
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch d_in"], place: Place | None = None
    ) -> Float[Array, "*batch d_out"]:
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        x = x.astype(self.dtype)
        y = _through(x, kernel)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, (self.axes[1],))
            y = y + _spread(self.param("bias", zeros, (self.features,), self.param_dtype), y)
        if self.has_variable("params", "lora_a"):
            a, b, scale = (self.get_variable("params", f"lora_{n}") for n in ("a", "b", "scale"))
            if self.has_variable("params", "lora_dropout") and self.has_rng("dropout"):
                assert place is not None, f"{self.path}: dropout without a place of its positions"
                rate = self.get_variable("params", "lora_dropout").astype(jnp.float32)
                x = dropout(x, rate, self.make_rng("dropout"), place)
            scale = jax.lax.stop_gradient(scale)  # it never trains (`train.stage.CONSTANTS`)
            y = y + _through(x, a, b) * scale.astype(self.dtype)
        return y


def _through(x: Float[Array, "*batch d_in"], *kernels: Array) -> Float[Array, "*batch d_out"]:
    """`x` times each of the kernels in turn."""
    y = x
    if not axes_in_use(*POSITIONS):
        # As one matrix: for the kernel's gradient, a sum over several dims, XLA's CPU backend
        # would make transposed copies that took a quarter of a training step. Where positions
        # are split, no split of the one dim would be that of the two.
        y = y.reshape(-1, x.shape[-1])
    for kernel in kernels:
        y = linear(y, kernel)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _spread(vector: Float[Array, "*d"], like: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`vector` in the shape and dtype of `like`; its gradient is summed in its own dtype."""
    return jnp.broadcast_to(vector, like.shape).astype(like.dtype)


class Embed(nn.Module):
    """A table of `num_embeddings` rows, looked up by id."""

    num_embeddings: int
    features: int
    axes: tuple[str, str]
    embedding_init: Initializer = DEFAULT_INIT
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        init = nn.with_logical_partitioning(self.embedding_init, self.axes)
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", init, shape, self.param_dtype)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        by_parts = ids.ndim == 2 and axes_in_use(*PARTS)
        if by_parts:
            # The table is split along its width: every device looks up its part of the width for
            # the rows of all, then parts are exchanged for rows. The table would be far more.
            ids = lay(ids, (DATA,), WHOLE)
        x = jnp.take(self.embedding, ids, axis=0).astype(self.dtype)
        if by_parts:
            x = lay(x, (DATA,), WHOLE, PARTS)
            x = lay(x, (DATA,), POSITIONS, (FSDP,))
            x = lay(x, ROWS, POSITIONS, WHOLE)
        return x

    def attend(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch n"]:
        """The product with every row of the table: a head that shares its parameters."""
        return linear(x.astype(self.dtype), self.embedding.T)


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), in float32, scaled in `dtype`."""

    epsilon: float
    scaled_dims: int = 1  # last dims that have scales of their own; the norm is over the last
    use_bias: bool = False
    start: float = 1.0  # of the scales
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        names = (axes.NORM,) * self.scaled_dims
        init = nn.with_logical_partitioning(nn.initializers.constant(self.start), names)
        scale = self.param("scale", init, x.shape[-self.scaled_dims :], self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        x = x.astype(self.dtype)
        x = x * _spread(scale, x)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
            x = x + _spread(self.param("bias", zeros, scale.shape, self.param_dtype), x)
        return x


class LayerNorm(nn.Module):
    """Layer norm with scale and bias, in float32, returned in `dtype`."""

    epsilon: float
    scaled_dims: int = 1  # last dims that have scales of their own; the norm is over the last
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        names, shape = (axes.NORM,) * self.scaled_dims, x.shape[-self.scaled_dims :]
        ones = nn.with_logical_partitioning(nn.initializers.ones, names)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
        scale = self.param("scale", ones, shape, self.param_dtype)
        bias = self.param("bias", zeros, shape, self.param_dtype)
        x = standardise(x, self.epsilon)
        y = x * scale.astype(jnp.float32) + bias.astype(jnp.float32)
        return y.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group norm over space and the channels of a group, in float32, returned in `dtype`."""

    num_groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width C"]) -> Float[Array, "B height width C"]:
        ones = nn.with_logical_partitioning(nn.initializers.ones, (axes.NORM,))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axes.NORM,))
        c = x.shape[-1]
        scale = self.param("scale", ones, (c,), self.param_dtype).astype(jnp.float32)
        bias = self.param("bias", zeros, (c,), self.param_dtype).astype(jnp.float32)
        size = c // self.num_groups

        def mean(x):
            # Over space first, then over the group: [B, 1, 1, C]. Splitting the channels of the
            # whole picture instead made this layer 3 times slower on CPU.
            channels = jnp.mean(x, axis=(1, 2)).reshape(-1, self.num_groups, size)
            return jnp.repeat(jnp.mean(channels, axis=-1), size, axis=-1)[:, None, None]

        x = x.astype(jnp.float32)
        x = x - mean(x)
        x = x * jax.lax.rsqrt(mean(x * x) + self.epsilon)
        return (x * scale + bias).astype(self.dtype)


class Dropout(nn.Module):
    """Drops where `apply` is given an rng "dropout" (`ops.dropout`)."""

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "*place d"], place: Place | None
    ) -> Float[Array, "*place d"]:
        if self.rate == 0 or not self.has_rng("dropout"):
            return x
        assert place is not None, f"{self.path}: dropout without a place of its positions"
        return dropout(x, self.rate, self.make_rng("dropout"), place)


class Conv(nn.Module):
    """2-D convolution, NHWC, kernel HWIO."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width d_in"]) -> Float[Array, "B h w d_out"]:
        names = (axes.SPATIAL, axes.SPATIAL, axes.CONV_IN, axes.CONV_OUT)
        init = nn.with_logical_partitioning(self.kernel_init, names)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axes.CONV_OUT,))
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            y = y + self.param("bias", zeros, (self.features,), self.param_dtype).astype(self.dtype)
        return y


class DepthwiseConv(nn.Module):
    """One kernel for each channel, NHWC, kernel HWC; the grid stays as it is."""

    kernel_size: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width d"]) -> Float[Array, "B height width d"]:
        names = (axes.SPATIAL, axes.SPATIAL, axes.CONV_OUT)
        fan_in = nn.initializers.normal(1 / self.kernel_size)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1])
        init = nn.with_logical_partitioning(fan_in, names)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        around = (self.kernel_size // 2,) * 2
        y = depthwise(x.astype(self.dtype), kernel.astype(self.dtype), (around, around))
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axes.CONV_OUT,))
            y = y + self.param("bias", zeros, shape[-1:], self.param_dtype).astype(self.dtype)
        return y
