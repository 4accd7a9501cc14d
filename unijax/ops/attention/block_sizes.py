"""Sizes of blocks by device, dtype and head dim, from `block_sizes.json` beside this file.

`python -m bench.attention --tune` adds entries to that file on the device that it runs on. Every
entry says how its sizes were found: `tuned` by that command, or `chosen` by what fits.
"""

import dataclasses
import functools
import json
from importlib import resources

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

ANY = "any"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Sizes for a case.

    Attributes:
      implementation: a key of `api.IMPLEMENTATIONS`.
      device: `device_kind` of a device as jax has it, or "any".
      dtype: of the queries, or "any".
      head_dim: the largest it is for, 0 for no limit.
      sizes: options of the implementation.
      how: how they were found: "tuned" or "chosen", and by what.
    """

    implementation: str
    device: str
    dtype: str
    head_dim: int
    sizes: dict[str, int]
    how: str

    @property
    def key(self) -> tuple:
        return self.implementation, self.device, self.dtype, self.head_dim


FILE = resources.files("unijax.ops.attention") / "block_sizes.json"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of the file."""
    return tuple(Entry(**fields) for fields in json.loads(FILE.read_text()))


def best_entry(implementation: str, device: str, dtype: str, head_dim: int) -> Entry:
    """The entry that says most of the case: its device before its dtype before its head dim."""
    fits = [
        e
        for e in entries()
        if e.implementation == implementation
        and e.device in (device, ANY)
        and e.dtype in (dtype, ANY)
        and (e.head_dim == 0 or head_dim <= e.head_dim)
    ]
    return min(fits, key=lambda e: (e.device == ANY, e.dtype == ANY, e.head_dim or float("inf")))


def block_sizes(
    implementation: str, head_dim: int, dtype: DTypeLike, **given: int | None
) -> dict[str, int]:
    """Sizes for the device that programs are now traced for; those that are given stay."""
    entry = best_entry(implementation, target()[1], jnp.dtype(dtype).name, head_dim)
    return entry.sizes | {name: size for name, size in given.items() if size is not None}


def target() -> tuple[str, str]:
    """Platform (cpu, gpu, tpu) and kind of the device that programs are now traced for.

    That is the device of the mesh set by `jax.set_mesh` if there is one, so that a program compiled
    ahead of time gets the kernels of its target; else jax's default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    if device is None or isinstance(device, str):
        device = jax.devices(device)[0]
    platform = "gpu" if device.platform in ("cuda", "rocm") else device.platform
    return platform, device.device_kind
