"""Losses of every picture with every text of the global batch, never with all their logits at once.

Every device holds pictures and texts of its own rows. The texts go around the ring of devices, and
where they come by they meet the pictures that live there, in tiles of `chunk` by `chunk` logits.
What is known of a picture adds up where it lives, what is known of a text travels with it and comes
home at the end. The backward pass goes around once more and works the logits again.

So no device holds more than its own features, those of one other, and a tile; and a pair is worked
once, not by the device of the picture and again by that of the text.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from unijax.core.mesh import DATA, FSDP, axes_in_use

Tree = dict[str, Array]
NOTHING = -1e30  # the logit of what does not count


@flax.struct.dataclass
class PairLoss:
    """Loss of a batch.

    Attributes:
      sum: over what counts; the only output with a gradient.
      correct: 1 for a picture whose largest logit is with a text that is its own.
    """

    sum: Any  # float32 []
    correct: Any  # float32 [B]


def softmax_loss(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    scale: Float[Array, ""],
    weight: Float[Array, " B"],
    *,
    chunk: int,
) -> PairLoss:
    """CLIP's loss (arXiv 2103.00020, figure 3), summed over the batch.

    Each picture is asked for its text among all texts, each text for its picture among all
    pictures: the mean of both cross-entropies, of the logits `scale * image . text`.

    On several devices the mesh of the context says what each holds (`core.mesh`): B is split over
    `data` and `fsdp` if it divides.

    Args:
      images, texts: unit vectors, the i-th belonging together.
      weight: of each pair; one of weight 0 is no answer to any other either. No gradient flows in.
      chunk: side of the tiles in which logits exist.
    """
    number = jnp.arange(len(weight), dtype=jnp.int32)
    return _loss(_Softmax, chunk, images, texts, {"scale": scale}, weight, number)


def sigmoid_loss(
    images: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    weight: Float[Array, " B"],
    label: Int[Array, "B *words"],
    *,
    chunk: int,
) -> PairLoss:
    """SigLIP's loss (arXiv 2303.15343, section 3.1), summed over all pairs.

    Each pair is asked whether it belongs together: `-log sigmoid(z (scale * image . text + bias))`,
    z = 1 where it does and -1 elsewhere, times the weights of both.

    Args:
      label: a picture and a text belong together where theirs are equal.
      images, texts, weight, chunk: as in `softmax_loss`.
    """
    scalars = {"scale": scale, "bias": bias}
    return _loss(_Sigmoid, chunk, images, texts, scalars, weight, label)


class _Softmax:
    """A normaliser for every picture and every text."""

    # What is known of each at first.
    rows: ClassVar = {"largest": NOTHING, "total": 0.0, "own": 0.0}
    columns: ClassVar = {"largest": NOTHING, "total": 0.0}

    @staticmethod
    def see(logits: Array, same: Array, row: Tree, column: Tree) -> tuple[Tree, Tree]:
        """What a tile adds to what is known of its rows and of its columns."""
        rows = _normaliser(row, _only(logits, column, 0), 1)
        rows["own"] = row["own"] + jnp.sum(jnp.where(same, logits, 0.0), axis=1)
        return rows, _normaliser(column, _only(logits, row, 1), 0)

    @staticmethod
    def finish(row: Tree, column: Tree) -> tuple[Array, Array, Tree, Tree]:
        """Loss and correctness of every row, and what the backward pass needs of both sides."""
        sides = (row, column)
        asked = [x["largest"] - row["own"] + jnp.log(x["total"]) for x in sides]
        loss = row["weight"] * (asked[0] + asked[1]) / 2
        # The largest, not the log of the sum, of which float32 has fewer digits; and the inverse of
        # the sum, for rows that fill the last tile have zeros.
        kept = [{"largest": x["largest"], "share": 1 / x["total"]} for x in sides]
        return loss, row["own"] >= row["largest"], *kept

    @staticmethod
    def slope(logits: Array, same: Array, row: Tree, column: Tree) -> Array:
        """Of the sum with respect to the logits of a tile."""
        of_row = jnp.exp(_only(logits, column, 0) - row["largest"][:, None])
        of_column = jnp.exp(_only(logits, row, 1) - column["largest"])
        of_row = of_row * row["share"][:, None] - same
        of_column = of_column * column["share"] - same
        return (row["weight"][:, None] * of_row + column["weight"] * of_column) / 2


class _Sigmoid:
    """A question for every pair."""

    rows: ClassVar = {"loss": 0.0, "largest": NOTHING, "own": NOTHING}
    columns: ClassVar = {}

    @staticmethod
    def see(logits: Array, same: Array, row: Tree, column: Tree) -> tuple[Tree, Tree]:
        signed = jnp.where(same, logits, -logits)
        loss = -jax.nn.log_sigmoid(signed) * column["weight"]
        counted = _only(logits, column, 0)
        largest = {"largest": counted, "own": jnp.where(same, counted, NOTHING)}
        rows = {n: jnp.maximum(row[n], jnp.max(x, axis=1)) for n, x in largest.items()}
        return rows | {"loss": row["loss"] + jnp.sum(loss, axis=1)}, {}

    @staticmethod
    def finish(row: Tree, column: Tree) -> tuple[Array, Array, Tree, Tree]:
        del column
        return row["loss"] * row["weight"], row["own"] >= row["largest"], {}, {}

    @staticmethod
    def slope(logits: Array, same: Array, row: Tree, column: Tree) -> Array:
        sign = jnp.where(same, 1.0, -1.0)
        both = row["weight"][:, None] * column["weight"]
        return -both * sign * jax.nn.sigmoid(-sign * logits)


def _only(logits: Array, other: Tree, axis: int) -> Array:
    """Logits with those that count, along `axis` of `other`."""
    counts = jnp.expand_dims(other["weight"] > 0, axis)
    return jnp.where(counts, logits, NOTHING)


def _normaliser(known: Tree, logits: Array, axis: int) -> Tree:
    """Largest logit, and the sum of exponentials under it, with those of one more tile."""
    largest = jnp.maximum(known["largest"], jnp.max(logits, axis=axis))
    more = jnp.sum(jnp.exp(logits - jnp.expand_dims(largest, axis)), axis=axis)
    return {
        "largest": largest,
        "total": known["total"] * jnp.exp(known["largest"] - largest) + more,
    }


def _loss(kind, chunk, images, texts, scalars, weight, label) -> PairLoss:
    weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
    ring = _Ring.of(len(weight), chunk)
    row, whole = PartitionSpec(ring.axes), PartitionSpec()
    inputs = (row, row, whole, row, row)

    def spread(work: Callable, in_specs: Any, out_specs: Any) -> Callable:
        if not ring.axes:
            return work
        return jax.shard_map(work, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    ahead = functools.partial(_forward, kind, ring)
    ahead = spread(ahead, inputs, (whole, row, row, row))
    behind = functools.partial(_backward, kind, ring)
    behind = spread(behind, (*inputs, row, row), (row, row, whole))

    @jax.custom_vjp
    def loss(*inputs):
        return ahead(*inputs)[:2]

    def forward(*inputs):
        total, correct, *kept = ahead(*inputs)
        return (total, correct), (inputs, kept)

    def backward(residuals, cotangents):
        inputs, kept = residuals
        found = behind(*inputs, *kept)
        scaled = lambda g, like: (g * cotangents[0]).astype(like.dtype)  # noqa: E731
        return (*jax.tree.map(scaled, found, inputs[:3]), None, None)

    loss.defvjp(forward, backward)
    return PairLoss(*loss(images, texts, scalars, weight, label))


class _Ring(NamedTuple):
    """How a batch is met: by how many devices along which axes of the mesh, in what tiles."""

    axes: tuple[str, ...]
    devices: int
    own: int  # rows of a device
    chunk: int

    @classmethod
    def of(cls, rows: int, chunk: int) -> "_Ring":
        axes = axes_in_use(DATA, FSDP)
        mesh = jax.sharding.get_abstract_mesh()
        devices = math.prod(mesh.shape[axis] for axis in axes)
        if rows % devices:
            axes, devices = (), 1  # every device works all of it
        return cls(axes, devices, rows // devices, min(chunk, rows // devices))

    def tiles(self, tree: Tree) -> Tree:
        """Rows in chunks, the last filled with rows of weight 0 that belong to none."""
        count = -(-self.own // self.chunk)
        filling = count * self.chunk - self.own

        def cut(x):
            nothing = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
            widths = [(0, filling)] + [(0, 0)] * (x.ndim - 1)
            x = jnp.pad(x, widths, constant_values=nothing)
            return x.reshape(count, self.chunk, *x.shape[1:])

        return jax.tree.map(cut, tree)

    def rows(self, tree: Tree) -> Tree:
        """The inverse of `tiles`."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: self.own], tree)

    def full(self, values: dict[str, float]) -> Tree:
        return {n: jnp.full(self.own, value, jnp.float32) for n, value in values.items()}

    def sum(self, x: Array) -> Array:
        return jax.lax.psum(x, self.axes) if self.axes else x

    def go_round(self, tile: Callable, here: Tree, away: Tree, known: Tree, known_away: Tree):
        """What is known of rows and of columns after every tile has been seen.

        Args:
          tile: `(row, column, known, known_away) -> (known, known_away)`, of one chunk of each.
          here, away: of the rows that stay, of the columns that travel.
          known, known_away: what is known of them at first.
        """
        here, away, known, known_away = map(self.tiles, (here, away, known, known_away))

        def of_column(known, column):
            def of_row(known_column, row):
                known_row, known_column = tile(row[0], column[0], row[1], known_column)
                return known_column, known_row

            known_column, known = jax.lax.scan(of_row, column[1], (here, known))
            return known, known_column

        def visit(state, _):
            known, away, known_away = state
            known, known_away = jax.lax.scan(of_column, known, (away, known_away))
            return (known, *map(self._pass_on, (away, known_away))), None

        state = known, away, known_away
        (known, _, known_away), _ = jax.lax.scan(visit, state, length=self.devices)
        return self.rows(known), self.rows(known_away)

    def _pass_on(self, tree: Tree) -> Tree:
        if not self.axes:
            return tree
        around = [(i, (i + 1) % self.devices) for i in range(self.devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, around), tree)


def _sides(images, texts, weight, label) -> tuple[Tree, Tree]:
    return tuple({"x": x, "weight": weight, "label": label} for x in (images, texts))


def _logits(row: Tree, column: Tree, scalars: Tree) -> tuple[Array, Array, Array]:
    """Cosines and logits of a tile, float32, and which pairs belong together."""
    cosine = jnp.dot(row["x"], column["x"].T, preferred_element_type=jnp.float32)
    logits = scalars["scale"].astype(jnp.float32) * cosine
    if "bias" in scalars:
        logits += scalars["bias"].astype(jnp.float32)
    same = row["label"][:, None] == column["label"]
    return cosine, logits, jnp.all(same, axis=tuple(range(2, same.ndim)))


def _forward(kind, ring, images, texts, scalars, weight, label):
    """Sum and correctness, and of both sides what the backward pass needs."""

    def tile(row, column, known, known_away):
        _, logits, same = _logits(row, column, scalars)
        return kind.see(logits, same, row | known, column | known_away)

    sides = _sides(images, texts, weight, label)
    known = ring.full(kind.rows), ring.full(kind.columns)
    row, column = ring.go_round(tile, *sides, *known)
    loss, correct, *kept = kind.finish(row | {"weight": weight}, column)
    correct = (correct & (weight > 0)).astype(jnp.float32)
    return ring.sum(jnp.sum(loss)), correct, *kept


def _backward(kind, ring, images, texts, scalars, weight, label, of_row, of_column):
    """Gradients of the sum, float32."""

    def tile(row, column, known, known_away):
        cosine, logits, same = _logits(row, column, scalars)
        slope = kind.slope(logits, same, row, column)
        into = (slope * scalars["scale"].astype(jnp.float32)).astype(images.dtype)
        dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
        found = {
            "x": known["x"] + dot(into, column["x"]),
            "scale": known["scale"] + jnp.sum(slope * cosine, axis=1),
            "bias": known["bias"] + jnp.sum(slope, axis=1),
        }
        return found, {"x": known_away["x"] + dot(into.T, row["x"])}

    row, column = _sides(images, texts, weight, label)
    zeros = {"x": jnp.zeros(images.shape, jnp.float32)}
    known = zeros | ring.full({"scale": 0.0, "bias": 0.0})
    found, away = ring.go_round(tile, row | of_row, column | of_column, known, zeros)
    of_scalars = {name: ring.sum(jnp.sum(found[name])) for name in scalars}
    return found["x"], away["x"], of_scalars
