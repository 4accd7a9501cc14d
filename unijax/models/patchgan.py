"""PatchGAN discriminator: real or reconstructed, for each patch of a picture (arXiv 1611.07004).

The layout of taming-transformers' and LlamaGen's `NLayerDiscriminator`. Our choice: group norm
where they have batch norm, so that a picture's loss does not depend on the pictures beside it.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.nn.layers import DEFAULT_INIT, Conv, GroupNorm

KERNEL = 4
PADDING = ((1, 1), (1, 1))
CHANNELS_OF_A_GROUP = 8
NORM_EPSILON = 1e-5
SLOPE = 0.2  # of the leaky ReLU
WIDEST = 8  # times base_channels


@dataclasses.dataclass(frozen=True)
class PatchGANConfig:
    """Shape of a discriminator.

    Raises:
      UserError: channels that group norm cannot divide.
    """

    base_channels: int = 64
    num_layers: int = 3  # of stride 2; two of stride 1 follow

    def __post_init__(self):
        if self.base_channels % CHANNELS_OF_A_GROUP:
            raise UserError(
                "PatchGANConfig.base_channels",
                f"{self.base_channels}",
                f"a multiple of {CHANNELS_OF_A_GROUP}",
                "Change it.",
            )

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(channels, stride) of the hidden layers."""
        wide = [self.base_channels * min(2**i, WIDEST) for i in range(self.num_layers + 1)]
        return (*((c, 2) for c in wide[:-1]), (wide[-1], 1))

    def flops_per_image(self, image_size: int) -> int:
        """Of the convolutions of a forward pass; 2 per multiply-add."""
        total, c_in, side = 0, 3, image_size
        for channels, stride in (*self.layers, (1, 1)):
            side = (side + 2 - KERNEL) // stride + 1
            total += 2 * KERNEL**2 * c_in * channels * side**2
            c_in = channels
        return total


class PatchGAN(nn.Module):
    """Pixels in -1..1 to one logit per patch: positive says real."""

    config: PatchGANConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B h w"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = {"kernel_size": KERNEL, "padding": PADDING, "kernel_init": DEFAULT_INIT, **kinds}
        x = pixels.astype(self.dtype)
        for i, (channels, stride) in enumerate(self.config.layers):
            x = Conv(channels, stride=stride, name=f"conv_{i}", **conv)(x)
            if i > 0:
                groups = channels // CHANNELS_OF_A_GROUP
                x = GroupNorm(groups, NORM_EPSILON, name=f"norm_{i}", **kinds)(x)
            x = jax.nn.leaky_relu(x, SLOPE)
        return Conv(1, name="conv_out", **conv)(x)[..., 0].astype(jnp.float32)
