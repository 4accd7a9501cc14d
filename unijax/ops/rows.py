"""Image tokens of packed rows: put where they are addressed, found again, and documents told apart.

An image token is addressed as `slot * N + offset` in the slots of its stream
(docs/architecture.md). Any position may show any image token of its row.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.core.stream import Layout
from unijax.core.system import Metrics
from unijax.ops.attention import attention_pairs, packed_intervals


def place(
    x: Float[Array, "B T D"],
    images: Float[Array, "B I N D"],
    address: Int[Array, "B T"],
    here: Bool[Array, "B T"],
    width: tuple[str, ...] = WHOLE,
) -> Float[Array, "B T D"]:
    """`x` with the addressed image token where it is `here`.

    Args:
      width: axes of the mesh over which D is split.
    """
    images = lay(images, ROWS, WHOLE, WHOLE, width)
    flat = images.reshape(images.shape[0], -1, images.shape[-1])
    found = jnp.take_along_axis(flat, jnp.where(here, address, 0)[..., None], axis=1)
    return jnp.where(here[..., None], lay(found, ROWS, POSITIONS, width), x)


def answers(
    values: Int[Array, "B I N"], address: Int[Array, "B T"], here: Bool[Array, "B T"]
) -> Int[Array, "B T"]:
    """The addressed value where it is `here`, that of address 0 elsewhere."""
    address = jnp.where(here, address, 0)
    return jnp.take_along_axis(values.reshape(values.shape[0], -1), address, axis=1)


def collect(
    x: Float[Array, "B T D"],
    address: Int[Array, "B T"],
    here: Bool[Array, "B T"],
    slots: tuple[int, int],
    width: tuple[str, ...] = WHOLE,
) -> Float[Array, "B I N D"]:
    """The inverse of `place`: every position that is `here`, at its address; zero elsewhere.

    Args:
      slots: I and N.
      width: axes of the mesh over which D is split.
    """
    count, tokens = slots
    where, there = places(address, here, count * tokens)
    found = jnp.take_along_axis(lay(x, ROWS, WHOLE, width), where[..., None], axis=1)
    found = jnp.where(there[..., None], found, 0)
    return lay(found.reshape(x.shape[0], count, tokens, -1), ROWS, WHOLE, WHOLE, width)


def places(
    address: Int[Array, "B T"], here: Bool[Array, "B T"], size: int
) -> tuple[Int[Array, "B size"], Bool[Array, "B size"]]:
    """Where in its row each address stands, of positions that are `here`, and whether it does."""
    address = jnp.where(here, address, size)  # all else goes behind the end, and is cut

    def row(address):
        at = jnp.arange(address.shape[0], dtype=jnp.int32)
        where = jnp.zeros(size + 1, jnp.int32).at[address].set(at)
        there = jnp.zeros(size + 1, bool).at[address].set(True)
        return where[:size], there[:size]

    return jax.vmap(row)(address)


def same_document_has(here: Bool[Array, "B T"], segment: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """Whether a position's document has one that is `here`."""

    def row(segment, has):
        by_segment = jnp.zeros(segment.shape[0] + 1, bool).at[segment].max(has)
        return by_segment[segment]

    return jax.vmap(row)(segment, here)


def beside_images(batch: PackedBatch, kind: Kind) -> dict[str, Bool[Array, "B T"]]:
    """Where a position stands to the images of its document, by the name of its loss.

    "text": of a document without images; "understanding": behind an image; "prompt": before one.
    """
    image = batch.kind == kind
    has = same_document_has(image, batch.segment)
    # Segments only grow along a row: what the last image was of is the document's own, or earlier.
    seen = jax.lax.cummax(jnp.where(image, batch.segment, 0), axis=1) == batch.segment
    return {"text": ~has, "understanding": has & seen, "prompt": has & ~seen}


def counts(
    batch: PackedBatch, layout: Layout, learned: Mapping[str, Bool[Array, "B T"]]
) -> Metrics:
    """Tokens by kind, targets by the name of their loss, documents, and the share of padding."""
    one = jnp.ones(())

    def count(x) -> tuple[Array, Array]:
        return jnp.sum(x.astype(jnp.float32)), one

    padding = batch.kind == Kind.PAD
    found = {"tokens": count(~padding), "tokens/text": count(batch.kind == Kind.TEXT)}
    for name in layout.slots:
        kinds = dict.fromkeys(s.kind for s in layout.streams if s.slots == name)
        here = functools.reduce(jnp.logical_or, [batch.kind == kind for kind in kinds])
        found[cost.tokens_of(name)] = count(here)
    for name, here in learned.items():
        found[f"{name}/targets"] = count(here & (batch.weight > 0))
    found["documents"] = count(jnp.max(batch.segment, axis=1))
    found["padding"] = (jnp.sum(padding.astype(jnp.float32)), jnp.float32(padding.size))
    return found


def amounts(
    batch: PackedBatch, layout: Layout, sees_whole: tuple[Kind, ...], as_causal: bool
) -> dict[str, Array]:
    """What there is in rows of each unit of `core.cost`. See `System.amounts`."""

    def count(x) -> Array:
        return jnp.sum(x.astype(jnp.float32))

    intervals = packed_intervals(batch.segment, batch.kind, batch.image, sees_whole)
    pairs, pairs_if_causal = attention_pairs(*intervals)
    found = {
        cost.TOKENS: count(batch.kind != Kind.PAD),
        cost.CAUSAL: count(
            (batch.kind != Kind.PAD) & ~jnp.isin(batch.kind, jnp.array(sees_whole, jnp.int32))
        ),
        cost.PAIRS: pairs_if_causal if as_causal else pairs,
    }
    for target in Target:
        if target != Target.NONE:
            feeds = (batch.target_kind == target) & (batch.weight > 0)
            found[cost.targets(target.name.lower())] = count(feeds)
    for name, slots in batch.images.items():
        kinds = dict.fromkeys(s.kind for s in layout.streams if s.slots == name)
        found[cost.tokens_of(name)] = sum(count(batch.kind == kind) for kind in kinds)
        found[cost.images_of(name)] = count(slots.weight)
        if slots.pixels is not None:
            found[cost.encoded_of(name)] = count(slots.weight)
    return found
