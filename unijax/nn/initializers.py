"""How a vision or text tower starts: the schemes of the published ones. Biases start at zero."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from unijax.nn.layers import DEFAULT_INIT, Initializer


class Inits(NamedTuple):
    """Of one block."""

    query: Initializer  # keys too
    value: Initializer
    attention_out: Initializer
    mlp_in: Initializer
    mlp_out: Initializer


def truncated(std: float) -> Initializer:
    """Normal of `std`, cut off at one `std`: what BEiT and EVA call a truncated normal."""
    return nn.initializers.truncated_normal(std, lower=-1.0, upper=1.0)


def times(init: Initializer, factor: float | Array) -> Initializer:
    """`init`, scaled."""

    def scaled(key, shape, dtype=jnp.float32):
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    return scaled


def fan(std: Callable[..., float]) -> Initializer:
    """Normal of a standard deviation that follows from the shape, a kernel's inputs and outputs."""

    def init(key, shape, dtype=jnp.float32):
        return std(*shape) * jax.random.normal(key, shape, dtype)

    return init


def xavier(outputs: int = 1) -> Initializer:
    """Xavier's normal, of a kernel that is one of `outputs` in one matrix of a release."""
    return fan(lambda d_in, d_out: math.sqrt(2.0 / (d_in + outputs * d_out)))


def _normal(cfg: Any, depth: Array) -> Inits:
    del cfg, depth
    return Inits(*[DEFAULT_INIT] * 5)


def _by_depth(init: Initializer, depth: Array) -> Inits:
    """BEiT's: what is added to the residual shrinks with the square root of the additions."""
    out = times(init, (2.0 * depth) ** -0.5)
    return Inits(init, init, out, init, out)


def _eva01(cfg: Any, depth: Array) -> Inits:
    del cfg
    return _by_depth(truncated(0.015), depth)


def _eva02(cfg: Any, depth: Array) -> Inits:
    """Xavier's normal. With norms inside the MLP, values and all that follows them are larger by
    `sqrt(ln(2 L))` (Magneto, arXiv 2210.06423). Without, queries, keys and values are one matrix of
    the release, and so are the two of SwiGLU, and start smaller for that."""
    del depth
    if not cfg.mlp_norm:
        return Inits(xavier(3), xavier(3), xavier(), xavier(2), xavier())
    large = times(xavier(), math.sqrt(math.log(2 * cfg.num_layers)))
    return Inits(xavier(), large, large, large, large)


def _eva_clip(cfg: Any, depth: Array) -> Inits:
    del cfg
    return _by_depth(DEFAULT_INIT, depth)


def _clip(cfg: Any, depth: Array) -> Inits:
    del depth
    wide = fan(lambda d_in, _: d_in**-0.5)
    out = fan(lambda _, d_out: (2 * d_out * cfg.num_layers) ** -0.5)
    return Inits(wide, wide, out, fan(lambda d_in, _: (2 * d_in) ** -0.5), out)


class Scheme(NamedTuple):
    """How a tower starts.

    Attributes:
      block: of a block, from the `EncoderConfig` and which block it is, counted from 1.
      patch: of the projection of patches.
      token: of class token, mask token and a picture's positions.
      text_position: of a text's positions.
    """

    block: Callable[[Any, Array], Inits]
    patch: Initializer
    token: Initializer
    text_position: Initializer = DEFAULT_INIT


# What PyTorch does to a convolution that nobody initialises.
_TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
SCHEMES = {
    # of 0.02, everywhere
    "normal": Scheme(_normal, DEFAULT_INIT, DEFAULT_INIT),
    # EVA-01's `modeling_pretrain.py`
    "eva01": Scheme(_eva01, truncated(0.015), truncated(0.015)),
    # EVA-02's `modeling_pretrain.py`
    "eva02": Scheme(_eva02, nn.initializers.xavier_uniform(), truncated(0.02)),
    # EVA-CLIP's `eva_vit_model.py`
    "eva_clip": Scheme(_eva_clip, _TORCH, DEFAULT_INIT),
    # OpenAI's `model.py`. The blocks are its text tower's; it leaves those of vision to PyTorch.
    "clip": Scheme(
        _clip, _TORCH, fan(lambda *shape: shape[-1] ** -0.5), nn.initializers.normal(0.01)
    ),
}


def block_inits(cfg: Any, depth: Array | None) -> Inits:
    """Of a block of an encoder.

    Args:
      cfg: its `EncoderConfig`.
      depth: which block, from 1; None where nothing is drawn, only shapes are asked for.
    """
    return SCHEMES[cfg.init].block(cfg, jnp.ones(()) if depth is None else depth)
