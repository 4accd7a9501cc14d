"""Small weight files that ship with the project: safetensors named by our own paths."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.flax import load_file, save_file

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.files import atomic_file
from unijax.core.paths import shipped
from unijax.core.system import Params


def save_weights(path: str | pathlib.Path, params: Params, dtype: DTypeLike) -> None:
    """Writes a nested tree, cast to `dtype`, as one file."""
    flat = {p: jnp.asarray(x, dtype) for p, x in tree.flatten(params).items()}
    with atomic_file(path) as temporary:
        save_file(flat, str(temporary))


def read_file(path: str | pathlib.Path) -> dict[str, jax.Array]:
    """Every parameter of a file, by path. Raises a UserError if it is missing or broken."""
    try:
        return load_file(str(shipped(path)))
    except (OSError, SafetensorError) as e:
        raise UserError(
            str(path),
            f"a file that cannot be read ({e})",
            "a safetensors file that `unijax train` or the repository wrote",
            "Restore the file or correct its path in the config.",
        ) from e


def place(x: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    """On the devices of all processes, each of which has read the file."""
    x = x.astype(like.dtype)
    return jax.make_array_from_callback(x.shape, like.sharding, lambda part: x[part])
