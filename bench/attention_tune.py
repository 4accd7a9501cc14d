"""Sizes of blocks by trial: what `python -m bench.attention --tune` does."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable

import jax

from unijax.ops.attention import select_implementation
from unijax.ops.attention.block_sizes import FILE, Entry, best_entry, entries
from unijax.ops.attention.cases import Case

SIZES = {
    "chunked": dict(block_q=(32, 64, 128, 256), block_k=(32, 64, 128, 256)),
    "tpu": dict(block_q=(256, 512, 1024), block_k=(256, 512, 1024)),
    "mosaic_gpu": dict(block=(64, 128, 192), block_backward=(64, 128)),
    "triton": dict(block_q=(32, 64, 128), block_k=(32, 64, 128)),
}
# (case, implementation, sizes) -> milliseconds of forward with backward
Clock = Callable[[Case, str, dict[str, int]], float]


def tune(cases: dict[str, Case], dtype: str, clock: Clock, command: str) -> list[Entry]:
    """The quickest sizes for the first case of every head dim, for the device that is here.

    Prints what it sees. Sizes that do not compile are left out.
    """
    device, found = jax.devices()[0].device_kind, []
    first = {case.head_dim: name for name, case in reversed(cases.items())}
    for head_dim, name in sorted(first.items()):
        case = cases[name]
        implementation = select_implementation(case.tokens, case.keys, head_dim, dtype)
        grid = SIZES.get(implementation)
        if grid is None:
            print(f"{name}: {implementation} has no blocks", flush=True)
            continue
        times = {}
        for sizes in itertools.product(*grid.values()):
            try:
                times[sizes] = clock(case, implementation, dict(zip(grid, sizes)))
                print(f"{name}: {implementation} {sizes} {times[sizes]:.3f} ms", flush=True)
            except Exception as problem:  # what a compiler says of blocks that are too large
                print(f"{name}: {implementation} {sizes} {str(problem)[:80]!r}", flush=True)
        if not times:
            continue
        best = min(times, key=times.__getitem__)
        sizes = dict(zip(grid, best))
        before = best_entry(implementation, device, dtype, head_dim).sizes
        was = times.get(tuple(before[name] for name in grid))
        versus = f"{was:.3f} ms with {before}" if was else f"{before} did not run"
        how = f"tuned: {command}, jax {jax.__version__}; {name}: {times[best]:.3f} ms, {versus}"
        found.append(Entry(implementation, device, dtype, head_dim, sizes, how))
    return found


def write(found: list[Entry], file: pathlib.Path = pathlib.Path(str(FILE))) -> None:
    """Puts entries into the table, in place of those of the same case: one a line."""
    table = {e.key: e for e in (*entries(), *found)}
    lines = [json.dumps(dataclasses.asdict(table[key])) for key in sorted(table)]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
