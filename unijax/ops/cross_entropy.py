"""Cross-entropy of a head over the positions that have a target for it, without their logits.

Positions with weight are sorted to the front and worked in chunks; a chunk without one is never
computed, and no `[N, V]` array exists. Under differentiation the forward pass makes the gradients
too, chunk by chunk, while the logits are there; the backward pass scales them.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

Params = Any
Head = Callable[[Params, Array], Array]  # (params, [n, D]) -> logits [n, V]


@flax.struct.dataclass
class HeadLoss:
    """Loss of a head.

    Attributes:
      sum: weighted sum of the negative log-likelihood; the only output with a gradient.
      nll: of each position, 0 without weight.
      correct: 1 where the target has the largest logit, 0 elsewhere and without weight.
    """

    sum: Any  # float32 []
    nll: Any  # float32 [N]
    correct: Any  # float32 [N]


def head_loss(
    head: Head,
    params: Params,
    hidden: Float[Array, "N D"],
    target: Int[Array, " N"],
    weight: Float[Array, " N"],
    *,
    chunk: int,
    frozen: bool = False,
) -> HeadLoss:
    """Summed cross-entropy of `head(params, hidden)` against `target`.

    Args:
      head: linear layer or small network, position by position.
      hidden: every position; those without weight cost nothing.
      weight: no gradient flows into it.
      chunk: positions whose logits exist at one time.
      frozen: the head does not train: its gradient, which is returned as zero, is not computed.
    """
    n = hidden.shape[0]
    chunk = min(chunk, n)
    target, weight = jax.lax.stop_gradient((target, weight.astype(jnp.float32)))
    order = jnp.argsort(weight == 0, stable=True)  # positions with weight first, in their order
    filling = -n % chunk
    # A filling index is out of range: gathers of it are zero, scatters of it are dropped.
    order = jnp.concatenate([order, jnp.full(filling, n, order.dtype)])
    total, nll, correct = _loss(
        lambda p, x: head(p, x).astype(jnp.float32), chunk, frozen, params, hidden, target, weight,
        order,
    )  # fmt: skip
    return HeadLoss(total, nll, correct)


def _loss_fn(head, chunk, frozen, params, hidden, target, weight, order):
    del frozen
    out, _ = _run(head, chunk, params, hidden, target, weight, order, gradients=None)
    return out


_loss = jax.custom_vjp(_loss_fn, nondiff_argnums=(0, 1, 2))


def _run(head, chunk, params, hidden, target, weight, order, gradients):
    """Loops over the chunks that hold a position with weight.

    `gradients` is None, or the zero accumulators (of params or None, of hidden).
    """
    count = jnp.sum(weight != 0)
    chunks = (count + chunk - 1) // chunk

    def body(i, state):
        (total, nll, correct), grads = state
        at = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        x = hidden.at[at].get(mode="fill", fill_value=0)
        y = target.at[at].get(mode="fill", fill_value=0)
        w = weight.at[at].get(mode="fill", fill_value=0)
        if grads is None:
            logits = head(params, x)
        elif grads[0] is None:
            logits, pull = jax.vjp(lambda x: head(params, x), x)
        else:
            logits, pull = jax.vjp(head, params, x)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0]
        has = w != 0
        loss = jnp.where(has, log_z - picked, 0.0)
        # `picked` is the largest when no logit exceeds it; ties go to the lower id, as argmax does.
        hit = jnp.where(has, (jnp.argmax(logits, axis=-1) == y).astype(jnp.float32), 0.0)
        total = total + jnp.sum(w * loss)
        nll = nll.at[at].set(loss, mode="drop")
        correct = correct.at[at].set(hit, mode="drop")
        if grads is not None:
            p = jnp.exp(logits - log_z[:, None])
            one_hot = jnp.arange(logits.shape[-1]) == y[:, None]
            pulled = pull((p - one_hot) * w[:, None])
            dparams, dx = (None, *pulled) if grads[0] is None else pulled
            if dparams is not None:
                dparams = jax.tree.map(lambda a, g: a + g.astype(a.dtype), grads[0], dparams)
            grads = dparams, grads[1].at[at].set(dx.astype(grads[1].dtype), mode="drop")
        return (total, nll, correct), grads

    zeros = jnp.zeros(weight.shape, jnp.float32)
    return jax.lax.fori_loop(0, chunks, body, ((jnp.zeros(()), zeros, zeros), gradients))


def _forward(head, chunk, frozen, params, hidden, target, weight, order):
    of_params = None if frozen else jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    zeros = of_params, jnp.zeros_like(hidden)
    out, grads = _run(head, chunk, params, hidden, target, weight, order, zeros)
    return out, (grads, params)


def _backward(head, chunk, frozen, residuals, cotangent):
    del head, chunk
    (of_params, of_hidden), params = residuals
    g = cotangent[0]
    if frozen:
        of_params = jax.tree.map(jnp.zeros_like, params)
    else:
        of_params = jax.tree.map(lambda d, p: (d * g).astype(p.dtype), of_params, params)
    return of_params, (of_hidden * g).astype(of_hidden.dtype), None, None, None


_loss.defvjp(_forward, _backward)
