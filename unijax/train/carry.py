"""A part of a model that starts from another run's: MIM's tower in CLIP, CLIP's in a Janus.

The parts have to be the same but for what EVA's releases change between stages, too: a mask token
is left behind, the norm that EVA-CLIP adds within attention starts fresh, and positions and patches
of another size are resized (`ops.resize`). A decoder may know more ids than the other run's: each
new row of its table and of its head begins as the mean of those that were there.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.paths import shipped
from unijax.core.telling import tell_once
from unijax.ops.resize import resize_bicubic, resize_positions
from unijax.train.checkpoint import check_same
from unijax.train.streaming import StoredParams
from unijax.train.weights import place, read_file

Read = Callable[[Iterable[str]], dict[str, np.ndarray]]
# What one of two towers may have alone.
_OPTIONAL = ("/mask_token", "/inner_attn_ln/scale", "/inner_attn_ln/bias")


def carried(
    source: str,
    group: str,
    like: Mapping[str, jax.ShapeDtypeStruct],
    begun: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Parameters of `group` that are taken over, by path; those that start fresh are not there.

    Args:
      source: a run directory or a weight file; `SOURCE:NAME` where the group is called NAME there;
        `:NAME` is another group of the model itself, of which this one is a copy, or of a part.
      group: top-level, or a path below one.
      like: of every parameter of the model, by path: shapes, dtypes and shardings.
      begun: parameters as they are so far, by path, of which `:NAME` copies.

    Raises:
      UserError: if there is no such group here or there, or it is not the same.
    """
    ours = {p: x for p, x in like.items() if tree.is_within(p, group)}
    if not ours:
        known = sorted({p.split("/")[0] for p in like})
        raise UserError("init", f"no parameter group {group!r}", f"one of {known}", "Correct it.")
    if source.startswith(":"):
        return _copied(source[1:], group, ours, begun)
    place_of, name = parted(source, group)
    shapes, read = _open(place_of)
    theirs = {p: group + p.removeprefix(name) for p in shapes if tree.is_within(p, name)}
    if not theirs:
        known = sorted({p.split("/")[0] for p in shapes})
        raise UserError(
            f"init.{group}: {source}", f"no parameter group {name!r}", f"one of {known}",
            "Name the group that it has there as SOURCE:NAME.",
        )  # fmt: skip
    back = {own: p for p, own in theirs.items()}
    optional = lambda path: path.endswith(_OPTIONAL)  # noqa: E731
    found = {p: shapes[there] for p, there in back.items() if p in ours or not optional(p)}
    wanted = {p: x.shape for p, x in ours.items() if p in back or not optional(p)}
    resized = {p for p in found.keys() & wanted.keys() if _resizes(p, found[p], wanted[p])}
    same = found | {p: wanted[p] for p in resized}
    check_same(f"init.{group}: {source}", same, wanted)
    _tell(source, "left behind", back.keys() - found.keys())
    _tell(source, "starting fresh", ours.keys() - wanted.keys())
    grown = {p for p in resized if _grows(p, found[p], wanted[p])}
    _tell(source, "with new rows, the mean of the others", grown)
    _tell(source, "resized", resized - grown)
    values = read(back[p] for p in wanted)
    tell_rounded(source, {p: values[back[p]] for p in wanted}, ours)
    out = {}
    for path, x in wanted.items():
        value = np.asarray(values[back[path]])
        value = _resized(path, value, x) if path in resized else value
        out[path] = place(value, ours[path])
    return out


def parted(source: str, group: str) -> tuple[str, str]:
    """A run directory or weight file, and what `group` is called there."""
    place_of, _, name = source.rpartition(":")
    return (source, group) if not place_of or shipped(source).exists() else (place_of, name)


def _copied(
    other: str,
    group: str,
    ours: Mapping[str, jax.ShapeDtypeStruct],
    begun: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    there = {p: other + p.removeprefix(group) for p in ours}
    if other == group or any(
        q not in begun or begun[q].shape != ours[p].shape for p, q in there.items()
    ):
        raise UserError(
            f"init.{group}", f":{other}, which does not hold the same parameters",
            f"another group of the model that does, of {sorted({p.split('/')[0] for p in begun})}",
            "Correct it.",
        )  # fmt: skip
    return {
        p: jax.device_put(jnp.array(begun[q], ours[p].dtype), ours[p].sharding)
        for p, q in there.items()
    }


def _open(source: str) -> tuple[dict[str, tuple[int, ...]], Read]:
    source = shipped(source)
    if not source.exists():
        raise UserError(
            f"init: {source}", "nothing", "a run directory or a weight file",
            "Train that run first, or correct its path in the config.",
        )  # fmt: skip
    if source.is_dir():
        stored = StoredParams(source)
        return {p: tuple(x.shape) for p, x in stored.arrays.items()}, stored.read
    flat = read_file(source)
    return {p: tuple(x.shape) for p, x in flat.items()}, lambda paths: {p: flat[p] for p in paths}


def _resizes(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether a table of a picture's positions, or a projection of patches, is of another size
    alone. Positions of texts lie in a row, and have no other size."""
    if _grows(path, old, new):
        return True
    is_one = path.endswith(("/embeddings/position_embedding/embedding", "/patch_embedding/kernel"))
    return is_one and old != new and old[1:] == new[1:]


def _grows(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether it is a decoder's table or head, for more ids than there were."""
    ids = {"embed_tokens/embedding": 0, "lm_head/kernel": 1}
    axis = next((a for name, a in ids.items() if path.endswith(f"/{name}")), None)
    if axis is None or len(old) != 2 or len(new) != 2:
        return False
    return old[1 - axis] == new[1 - axis] and old[axis] < new[axis]


def _resized(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if _grows(path, x.shape, shape):
        axis = int(x.shape[0] == shape[0])
        mean = np.mean(x, axis=axis, keepdims=True, dtype=np.float32).astype(x.dtype)
        more = np.repeat(mean, shape[axis] - x.shape[axis], axis=axis)
        return np.concatenate([x, more], axis=axis)
    if path.endswith("/embedding"):
        grid = math.isqrt(shape[0])
        return np.asarray(resize_positions(x, grid, shape[0] - grid**2))
    old, new = (math.isqrt(rows // 3) for rows in (len(x), shape[0]))
    patches = resize_bicubic(x.reshape(old, old, 3, -1), new, new)
    return np.asarray(patches).reshape(shape)


def tell_rounded(
    source: str,
    theirs: Mapping[str, Any],
    ours: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """Says of which groups the numbers are more exact in the source than they will be here.

    Both are what has a dtype, by path.
    """
    lossy = {
        (p.split("/")[0], str(ours[p].dtype))
        for p, x in theirs.items()
        if p in ours and jnp.promote_types(x.dtype, ours[p].dtype) != ours[p].dtype
    }
    _tell(source, "rounded to the type that this run keeps", {f"{g} ({t})" for g, t in lossy})


def _tell(source: str, what: str, paths: Iterable[str]) -> None:
    if named := sorted(paths):
        tell_once(f"carried {source} {what}", f"of {source}, {what}: {', '.join(named)}")
