"""Cross-entropy of a head over the positions that have a target for it, without their logits.

Each device gathers, of the rows it holds, the positions with weight, and works them in chunks; a
chunk without one is never computed, and no `[N, V]` array exists. Under differentiation the forward
pass makes the gradients too, chunk by chunk, while the logits are there; the backward pass scales
them. Hidden states stay where they are. Gradients of parameters are summed over devices once, after
the last chunk. Where the mesh has a tensor axis, the classes are split over it: normaliser, logit
of the answer and largest logit of a chunk are put together from what each device has of them
(arXiv 1909.08053, section 3), and so is the gradient of its hidden states.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR, axes_in_use

Params = Any
Head = Callable[[Params, Array], Array]  # (params, [n, D]) -> logits [n, V]


@flax.struct.dataclass
class HeadLoss:
    """Loss of a head.

    Attributes:
      sum: of `weight * (nll + z_weight * log_z ** 2)`; the only output with a gradient.
      nll: negative log-likelihood of each position, 0 without weight.
      correct: 1 where the target has the largest logit, 0 elsewhere and without weight.
    """

    sum: Any  # float32 []
    nll: Any  # float32 [B, T]
    correct: Any  # float32 [B, T]


def head_loss(
    head: Head,
    params: Params,
    hidden: Float[Array, "B T D"],
    target: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    *,
    chunk: int,
    by_class: Any = False,
    frozen: bool = False,
    z_weight: float = 0.0,
) -> HeadLoss:
    """Summed cross-entropy of `head(params, hidden)` against `target`.

    On several devices the mesh of the context says what each holds (`core.mesh`): B is split over
    `data` and `fsdp`, T over `sequence`, classes over `tensor`, each if its size divides.

    Args:
      head: linear layer or small network, position by position. Its parameters come in the dtype of
        `hidden`: they are cast once, before they are gathered.
      hidden: every position; those without weight cost nothing.
      weight: no gradient flows into it.
      chunk: positions of a device whose logits exist at one time.
      by_class: prefix of the tree of `params`: True for the leaves whose last dim is the classes,
        which may be split; all others are whole on every device.
      frozen: the head does not train: its gradient, which is returned as zero, is not computed.
      z_weight: of the square of the log-normaliser, which keeps it near zero (PaLM, arXiv
        2204.02311, section 5).
    """
    weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
    by_class = jax.tree.broadcast(by_class, params)
    split = _split(target.shape, params, by_class)
    place = PartitionSpec(split.rows, split.length)
    of_params, of_sums = (jax.tree.map(f, params, by_class) for f in (split.leaf, split.gradient))

    def run(differentiate: tuple[str, ...], params, hidden, target, weight):
        """`(sum, nll, correct)`, and the gradients of those of "hidden" and "params" asked for."""
        params = jax.tree.map(lambda p: p.astype(hidden.dtype), params)
        work = functools.partial(_work, head, chunk, z_weight, split, by_class, differentiate)
        if split.axes:
            gradients = {"hidden": place, "params": of_sums}
            work = jax.shard_map(
                work,
                in_specs=(of_params, place, place, place),
                out_specs=(
                    (PartitionSpec(), place, place),
                    {name: gradients[name] for name in differentiate},
                ),
                check_vma=False,
            )
        return work(params, hidden, target, weight)

    @jax.custom_vjp
    def loss(*inputs):
        return run((), *inputs)[0]

    def forward(*inputs):
        out, gradients = run(("hidden",) if frozen else ("hidden", "params"), *inputs)
        return out, (gradients, inputs[0])

    def backward(residuals, cotangents):
        gradients, params = residuals
        scaled = lambda d, like: (d * cotangents[0]).astype(like.dtype)  # noqa: E731
        of_hidden = scaled(gradients["hidden"], gradients["hidden"])
        if frozen:
            return jax.tree.map(jnp.zeros_like, params), of_hidden, None, None
        return jax.tree.map(scaled, gradients["params"], params), of_hidden, None, None

    loss.defvjp(forward, backward)
    return HeadLoss(*loss(params, hidden, target, weight))


class _Split(NamedTuple):
    """Axes of the mesh over which arrays are split: none on one device."""

    rows: tuple[str, ...]
    length: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        return self.rows + self.length + self.classes

    def leaf(self, leaf: Array, by_class: bool) -> PartitionSpec:
        """Of a parameter as the head uses it."""
        whole = (None,) * (leaf.ndim - 1)
        return PartitionSpec(*whole, self.classes) if by_class else PartitionSpec()

    def gradient(self, leaf: Array, by_class: bool) -> PartitionSpec:
        """Of the gradient of a parameter: matrices lie over `fsdp` as they do when not in use."""
        spec = self.leaf(leaf, by_class)
        return PartitionSpec(FSDP, *spec[1:]) if self.scatters(leaf) else spec

    def scatters(self, leaf: Array) -> bool:
        count = jax.sharding.get_abstract_mesh().shape.get(FSDP, 1)
        return FSDP in self.rows and leaf.ndim > 1 and leaf.shape[0] % count == 0

    def sum(self, gradient: Array, by_class: bool) -> Array:
        """Over devices, of what each has found. To be called by each."""
        axes = self.rows + self.length
        if not by_class:
            # A layer below split classes is whole on every device, and its gradient in parts.
            axes += self.classes
        if self.scatters(gradient):
            gradient = jax.lax.psum_scatter(gradient, FSDP, scatter_dimension=0, tiled=True)
            axes = tuple(axis for axis in axes if axis != FSDP)
        return _over(jax.lax.psum, gradient, axes)


def _split(shape: tuple[int, int], params: Params, by_class: Any) -> _Split:
    """Axes that divide the rows and positions of `shape`, and all leaves that end with classes."""
    mesh = jax.sharding.get_abstract_mesh()

    def dividing(axes, *sizes):
        count = math.prod(mesh.shape[axis] for axis in axes)
        return axes if sizes and all(size % count == 0 for size in sizes) else ()

    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(by_class))
    return _Split(
        dividing(axes_in_use(DATA, FSDP), shape[0]),
        dividing(axes_in_use(SEQUENCE), shape[1]),
        dividing(axes_in_use(TENSOR), *(leaf.shape[-1] for leaf, named in leaves if named)),
    )


def _work(head, chunk, z_weight, split, by_class, differentiate, params, hidden, target, weight):
    """What one device does, for the positions and with the classes that it holds."""
    shape, hidden = hidden.shape, hidden.reshape(-1, hidden.shape[-1])
    target, weight = target.reshape(-1), weight.reshape(-1)
    n = weight.size
    chunk = min(chunk, n)
    # The positions with weight, then an index out of range: gathers of it are zero, scatters of it
    # are dropped. Of two chunks at least: of one alone the compiler sees that its positions do not
    # change from turn to turn, and takes its products out of the loop, to be worked in any case.
    order = jnp.nonzero(weight, size=max(2, -(-n // chunk)) * chunk, fill_value=n)[0]
    chunks = (jnp.count_nonzero(weight) + chunk - 1) // chunk

    def body(i, state):
        (total, nll, correct), gradients = state
        at = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        x, y, w = (a.at[at].get(mode="fill", fill_value=0) for a in (hidden, target, weight))
        inputs = {"hidden": x, "params": params}

        def logits_of(some):
            some = inputs | some
            return head(some["params"], some["hidden"]).astype(jnp.float32)

        logits, pull = jax.vjp(logits_of, {name: inputs[name] for name in differentiate})
        log_z, picked, hit, one_hot = _statistics(logits, y, split.classes)
        p = jnp.exp(logits - log_z[:, None])
        loss = log_z - picked
        if z_weight:
            p *= 1 + 2 * z_weight * log_z[:, None]
            total += jnp.sum(w * z_weight * jnp.square(log_z))
        total += jnp.sum(w * loss)
        nll, correct = (a.at[at].set(b, mode="drop") for a, b in ((nll, loss), (correct, hit)))
        (new,) = pull((p - one_hot) * w[:, None])
        if "hidden" in new:
            # Each device knows what flows back from its own classes.
            dx = _over(jax.lax.psum, new["hidden"].astype(jnp.float32), split.classes)
            dx = gradients["hidden"].at[at].set(dx.astype(hidden.dtype), mode="drop")
            gradients = gradients | {"hidden": dx}
        if "params" in new:
            sums = jax.tree.map(lambda a, g: a + g, gradients["params"], new["params"])
            gradients = gradients | {"params": sums}
        return (total, nll, correct), gradients

    zeros = jnp.zeros(n, jnp.float32)
    gradients = {
        "hidden": jnp.zeros_like(hidden),
        "params": jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params),
    }
    gradients = {name: gradients[name] for name in differentiate}
    state = (jnp.zeros((), jnp.float32), zeros, zeros), gradients
    (total, nll, correct), gradients = jax.lax.fori_loop(0, chunks, body, state)

    if "hidden" in gradients:
        gradients["hidden"] = gradients["hidden"].reshape(shape)
    if "params" in gradients:
        gradients["params"] = jax.tree.map(split.sum, gradients["params"], by_class)
    total = _over(jax.lax.psum, total, split.rows + split.length)
    return (total, nll.reshape(shape[:2]), correct.reshape(shape[:2])), gradients


def _statistics(logits, target, axes):
    """Of each position: log-normaliser, logit of the target, 1 where it is the largest, one-hot.

    Args:
      logits: float32 [n, V], of the classes that this device has, in order over `axes`.
      target: int32 [n], of all classes.
    """
    count = logits.shape[1]
    first = jax.lax.axis_index(axes) * count if axes else 0
    target = target - first
    mine = (target >= 0) & (target < count)
    one_hot = jnp.arange(count) == target[:, None]
    top, best = jnp.max(logits, axis=1), jnp.argmax(logits, axis=1).astype(jnp.int32)
    largest = _over(jax.lax.pmax, top, axes)
    total = _over(jax.lax.psum, jnp.sum(jnp.exp(logits - largest[:, None]), axis=1), axes)
    picked = jnp.take_along_axis(logits, jnp.clip(target, 0, count - 1)[:, None], axis=1)[:, 0]
    picked = _over(jax.lax.psum, jnp.where(mine, picked, 0.0), axes)
    # Of several largest logits the one of the lowest class counts, as argmax has it.
    best = jnp.where(top == largest, best + first, jnp.iinfo(jnp.int32).max)
    hit = _over(jax.lax.pmin, best, axes) == target + first
    return jnp.log(total) + largest, picked, hit.astype(jnp.float32), one_hot


def _over(reduce: Callable, x: Array, axes: tuple[str, ...]) -> Array:
    """`x` reduced over the devices along `axes`."""
    return reduce(x, axes) if axes else x
