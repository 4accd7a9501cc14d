"""Forward and backward kernels joined into one differentiable function.

Kept for the backward pass are the inputs, the output and one log-sum-exp for each query and head.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unijax.ops.attention.split import END, ROW, K, Q, over_devices


@dataclasses.dataclass(frozen=True)
class Options:
    """What kernels are compiled for.

    Attributes:
      scale: of the scores.
      soft_cap: scores are capped to `(-soft_cap, soft_cap)` after scaling; None: not at all.
      block_q, block_k: queries and keys worked at one time.
      interpret: run by an interpreter on the CPU (True, or parameters of one), not compiled.
    """

    scale: float
    soft_cap: float | None
    block_q: int
    block_k: int
    interpret: object = False


@dataclasses.dataclass(frozen=True)
class Kernels:
    """A forward and a backward pass.

    Attributes:
      forward: `(q, k, v, start, end, options) -> out, lse`, the latter float32 `[B, H, Tq]`.
      backward: `(q, k, v, start, end, dout, lse, delta, options) -> dq, dk, dv`, with `delta`,
        float32 `[B, H, Tq]`, the sum of `out * dout` over a head.
    """

    forward: Callable
    backward: Callable


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend(q, k, v, start, end, kernels: Kernels, options: Options):
    """`[B, Tq, H, D]`, of `q` and of `k, v` `[B, Tk, Hkv, D]`, as `attention` defines it."""
    return _forward(q, k, v, start, end, kernels, options)[0].astype(q.dtype)


def _forward(q, k, v, start, end, kernels, options):
    def forward(*args):
        return kernels.forward(*args, options)

    return over_devices(forward, (Q, K, K, END, END), (Q, ROW), q, k, v, start, end)


def _attend_fwd(q, k, v, start, end, kernels, options):
    out, lse = _forward(q, k, v, start, end, kernels, options)
    out, lse = checkpoint_name(out, "attention"), checkpoint_name(lse, "attention")
    return out.astype(q.dtype), (q, k, v, start, end, out, lse)


def _attend_bwd(kernels, options, residuals, dout):
    *inputs, out, lse = residuals

    def backward(*args):
        return kernels.backward(*args, options)

    delta = jnp.einsum("bthd,bthd->bht", out.astype(jnp.float32), dout.astype(jnp.float32))
    dims = (Q, K, K, END, END, Q, ROW, ROW), (Q, K, K)
    gradients = over_devices(backward, *dims, *inputs, dout, lse, delta)
    return *gradients, None, None


attend.defvjp(_attend_fwd, _attend_bwd)
