"""Nested dicts of arrays as flat dicts of '/'-joined paths, and back."""

from typing import Any

from flax import traverse_util


def flatten(tree: dict) -> dict[str, Any]:
    """`{'a': {'b': x}}` -> `{'a/b': x}`, in sorted order of paths."""
    return dict(sorted(traverse_util.flatten_dict(tree, sep="/").items()))


def unflatten(flat: dict[str, Any]) -> dict:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def is_within(path: str, group: str) -> bool:
    """Whether a path is `group`, or lies in it."""
    return path == group or path.startswith(group + "/")
