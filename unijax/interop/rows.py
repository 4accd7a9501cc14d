"""Packed rows of a comparison: one document a row, nothing is learned."""

import dataclasses

import numpy as np
from jax import Array

from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.vocab import SpecialIds

ROWS = 2


def ordinary(special: SpecialIds, ids: int) -> np.ndarray:
    """Those of `ids` text ids that are not special."""
    used = set(dataclasses.astuple(special))
    return np.array([i for i in range(ids) if i not in used])


def column(*ids: int) -> np.ndarray:
    """The same ids in every row, [ROWS, n]."""
    return np.tile(np.array(ids), (ROWS, 1))


def addresses(tokens: int, slot: int = 0) -> np.ndarray:
    """Of the tokens of the image of every row in that slot, [ROWS, tokens]."""
    return column(*range(slot * tokens, (slot + 1) * tokens))


def rows(parts: list[tuple[Kind, np.ndarray]], **streams: ImageSlots) -> PackedBatch:
    """Rows of ids or addresses [ROWS, n] of each kind in turn."""
    tokens = np.concatenate([x for _, x in parts], axis=1).astype(np.int32)
    kind = np.concatenate([np.full(x.shape, k, np.int32) for k, x in parts], axis=1)
    nothing = np.zeros_like(tokens)
    number = np.cumsum([k != Kind.TEXT for k, _ in parts], dtype=np.int32)
    image = [np.full(x.shape, (k != Kind.TEXT) * i, np.int32) for (k, x), i in zip(parts, number)]
    return PackedBatch(
        tokens=tokens,
        kind=kind,
        segment=np.ones_like(tokens),
        position=np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape),
        image=np.concatenate(image, axis=1),
        target_kind=np.full_like(tokens, Target.NONE),
        target=nothing,
        weight=nothing.astype(np.float32),
        uid=nothing.astype(np.uint32),
        images=streams,
    )


def slots(**content: np.ndarray | Array) -> ImageSlots:
    """Images of rows [B, I, ...], all of them used."""
    (value,) = content.values()
    one = np.ones(value.shape[:2], np.float32)
    return ImageSlots(weight=one, seed=one.astype(np.uint32), **content)
