"""Run by test_attention_devices.py in a process with 8 devices: attention over each mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unijax.core.mesh import DATA, FSDP, SEQUENCE, TENSOR
from unijax.ops.attention import attention
from unijax.ops.attention.cases import Case, case_intervals
from unijax.ops.attention.pallas_tpu import attention_tpu

MESHES = {
    "rows and heads": {DATA: 2, FSDP: 2, TENSOR: 2},
    "positions": {SEQUENCE: 8},
    "rows, heads and positions": {DATA: 2, TENSOR: 2, SEQUENCE: 2},
}
HEADS = [(4, 2), (2, 2), (2, 1)]  # query heads, key heads
IMPLEMENTATIONS = {
    "tpu": dict(block_q=8, block_k=8, interpret=True),
    "chunked": dict(block_q=8, block_k=8),
    "reference": {},
}
ROWS, T, D = 4, 32, 8


def both(attend):
    """Output and gradients."""

    def run(q, k, v, dout, *ends):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, *ends), q, k, v)
        return out, *pull(dout)

    return run


def close(found, want):
    for x, y in zip(found, want, strict=True):
        assert np.abs(np.asarray(x) - np.asarray(y)).max() <= 2e-6 * np.abs(np.asarray(y)).max()


def inputs(heads: int, kv_heads: int) -> list:
    """q, k, v, a cotangent, and the ends of the intervals."""
    rng = np.random.default_rng(0)
    sizes = [(ROWS, T, n, D) for n in (heads, kv_heads, kv_heads, heads)]
    case = Case(T, heads, kv_heads, D, mean=9, image=4, whole=True, rows=ROWS)
    arrays = [rng.standard_normal(s, np.float32) for s in sizes]
    return [*map(jnp.asarray, arrays), *map(jnp.asarray, case_intervals(case))]


def specs(axes: dict[str, int], kv_heads: int) -> list[P]:
    rows = tuple(a for a in (DATA, FSDP) if a in axes)
    heads = TENSOR if TENSOR in axes and kv_heads % axes[TENSOR] == 0 else None
    length = SEQUENCE if SEQUENCE in axes else None
    return [P(rows, length, heads)] * 4 + [P(rows, length)] * 2


def gathered(text: str) -> list[tuple[int, ...]]:
    """Shapes of what the compiled program gathers."""
    found = re.findall(r"= \(?\w+\[([\d,]*)\]\S* all-gather", text)
    return [tuple(int(n) for n in shape.split(",")) for shape in found]


def check(axes: dict[str, int], heads: int, kv_heads: int) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))
    arrays = inputs(heads, kv_heads)
    want = jax.jit(both(functools.partial(attention, implementation="reference")))(*arrays)
    places = specs(axes, kv_heads)
    placed = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arrays, places)]
    for name, options in IMPLEMENTATIONS.items():
        attend = both(functools.partial(attention, implementation=name, **options))
        with jax.set_mesh(mesh):
            compiled = jax.jit(attend).lower(*placed).compile()
            found = compiled(*placed)
        close(found, want)
        if name == "reference":
            continue
        for x, place in zip(found, places):
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, place), x.ndim), x.sharding
        # Keys and values, once for both passes, and only where a row is split.
        local = placed[1].sharding.shard_shape(placed[1].shape)
        of_row = [(local[0], T, *local[2:])] * 2
        assert gathered(compiled.as_text()) == (of_row if SEQUENCE in axes else []), name


def check_by_hand() -> None:
    """Inside a shard_map of the caller's each device has its own part already."""
    axes = MESHES["rows and heads"]
    mesh = Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))
    arrays, places = inputs(4, 2), tuple(specs(axes, 2))
    attend = both(functools.partial(attention, implementation="chunked", block_q=8, block_k=8))
    run = jax.shard_map(attend, mesh=mesh, in_specs=places, out_specs=places[:4], check_vma=False)
    close(jax.jit(run)(*arrays), jax.jit(attend)(*arrays))


def check_half_precision() -> None:
    """Gradients of keys are rounded once on each device, not with every sum."""
    axes = MESHES["positions"]
    mesh = Mesh(np.array(jax.devices()), tuple(axes))
    *arrays, start, end = inputs(2, 2)
    attend = both(functools.partial(attention, implementation="chunked", block_q=8, block_k=8))
    want = jax.jit(attend)(*arrays, start, end)
    with jax.set_mesh(mesh):
        found = jax.jit(attend)(*(x.astype(jnp.bfloat16) for x in arrays), start, end)
    for x, y in zip(found, want):
        assert x.dtype == jnp.bfloat16
        assert np.abs(np.asarray(x, np.float32) - y).max() <= 2**-6 * np.abs(y).max()


def check_sizes_that_do_not_divide() -> None:
    """Every device works all then; a kernel is not left to the compiler, which cannot split it."""
    axes = MESHES["rows and heads"]
    mesh = Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))
    arrays = [x[:3] for x in inputs(2, 1)]
    options = IMPLEMENTATIONS["tpu"]
    attend = both(functools.partial(attention, implementation="tpu", **options))
    compiled = both(functools.partial(attention_tpu, scale=1.0))
    want = jax.jit(both(functools.partial(attention, implementation="reference")))(*arrays)
    with jax.set_mesh(mesh):
        close(jax.jit(attend)(*arrays), want)
        jax.jit(compiled).trace(*arrays).lower(lowering_platforms=("tpu",))


if __name__ == "__main__":
    for axes in MESHES.values():
        for heads in HEADS:
            check(axes, *heads)
    check_by_hand()
    check_half_precision()
    check_sizes_that_do_not_divide()
    print("equal")
