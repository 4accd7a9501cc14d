"""Attention over several devices equals that of one: rows and heads split, or the row itself."""

import os
import subprocess
import sys

PROGRAM = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from unijax.ops.attention import attention, sequence_parallel_attention
from unijax.ops.attention.cases import Case, case_intervals

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("row", "head"))
rng = np.random.default_rng(0)

def close(found, want):
    for x, y in zip(found, want, strict=True):
        assert np.abs(np.asarray(x) - np.asarray(y)).max() <= 2e-6 * np.abs(np.asarray(y)).max()

def both(attend):
    def run(q, k, v, dout, *ends):
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, *ends), q, k, v)
        return out, *pull(dout)
    return run

for heads, kv_heads, split in (4, 2, True), (2, 2, True), (2, 1, False):
    case = Case(32, heads, kv_heads, 8, mean=9, image=4, whole=True, rows=4)
    sizes = [(4, 32, n, 8) for n in (heads, kv_heads, kv_heads, heads)]
    arrays = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in sizes]
    arrays += map(jnp.asarray, case_intervals(case))
    want = jax.jit(both(functools.partial(attention, implementation="reference")))(*arrays)
    for name, options in (
        ("tpu", dict(block_q=8, block_k=8, interpret=True)),
        ("chunked", dict(block_q=8, block_k=8)),
    ):
        specs = [P("row", None, "head" if split else None)] * 4 + [P("row")] * 2
        placed = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arrays, specs)]
        attend = functools.partial(attention, implementation=name, **options)
        compiled = jax.jit(both(attend)).lower(*placed).compile()
        found = compiled(*placed)
        close(found, want)
        assert found[0].sharding.spec[0] == "row", found[0].sharding
        assert "all-gather" not in compiled.as_text(), name

        # The same by hand, where every axis is manual.
        by_hand = jax.shard_map(
            both(attend), mesh=mesh, in_specs=tuple(specs), out_specs=tuple(specs[:4]),
            check_vma=False,
        )
        if name == "chunked":
            close(jax.jit(by_hand)(*placed), want)

# One long row over all devices.
line = Mesh(np.array(jax.devices()), ("sequence",))
attend = functools.partial(
    sequence_parallel_attention, mesh=line, axis="sequence",
    implementation="chunked", block_q=8, block_k=8,
)
whole = [jax.device_put(x, NamedSharding(line, P(None, "sequence"))) for x in arrays]
close(jax.jit(both(attend))(*whole), want)
print("equal")
"""


def test_split_over_devices_equals_one():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]
