"""Time of attention, forward and with its gradients, on packed rows: in blocks and as written.

    python bench/attention.py [--blocks 64 128] [--rounds 10]

Prints a table. The contenders take turns, and the best of the rounds counts, by the clock and by
processor time (all threads): on a busy machine the second is the one to compare.
"""

import argparse
import functools
import os
import resource
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from unijax.ops.attention.chunked import attention_chunked
from unijax.ops.attention.reference import attention_reference

# name: rows, tokens of a row, heads, head dim, mean tokens of a document (0: all see all)
CASES = {
    "demo decoder": (8, 512, 6, 32, 75),
    "one long row": (1, 4096, 8, 64, 700),
    "small picture tower": (16, 64, 6, 32, 0),
    "SigLIP-L/16 at 384": (1, 576, 16, 64, 0),
}


def intervals(rows: int, length: int, mean: int) -> tuple[np.ndarray, np.ndarray]:
    """Causal documents of half to one and a half times the mean, filling every row."""
    start, end = np.zeros((2, rows, length), np.int32)
    end += length if mean == 0 else np.arange(length, dtype=np.int32) + 1
    rng = np.random.default_rng(0)
    for row in start if mean else ():
        at = 0
        while at < length:
            size = int(rng.integers(mean // 2, mean * 3 // 2))
            row[at : at + size] = at
            at += size
    return start, end


def spent() -> np.ndarray:
    """Seconds by the clock, and of the processor by all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), usage.ru_utime + usage.ru_stime])


def programs(fn, args):
    """Compiled forward pass, and forward with backward."""

    def out(q, k, v, start, end):
        return fn(q, k, v, start, end, scale=q.shape[-1] ** -0.5)

    def loss(*args):
        return jnp.sum(jnp.sin(out(*args)))

    gradients = jax.grad(loss, (0, 1, 2))
    return [jax.jit(f).lower(*args).compile() for f in (out, gradients)]


def measure(contenders: dict, args, rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds `[program, (clock, processor)]` of each contender."""
    compiled = {name: programs(fn, args) for name, fn in contenders.items()}
    best = {name: np.full((2, 2), np.inf) for name in contenders}
    for _ in range(rounds):
        for name, both in compiled.items():
            for i, program in enumerate(both):
                before = spent()
                jax.block_until_ready(program(*args))
                best[name][i] = np.minimum(best[name][i], 1e3 * (spent() - before))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    contenders = {"reference": attention_reference} | {
        f"blocks of {n}": functools.partial(attention_chunked, block_q=n, block_k=n)
        for n in options.blocks
    }
    titles = "forward ms", "cpu ms", "+ backward ms", "cpu ms", "of reference"
    print(f"{'':22}" + "".join(f"{t:>15}" for t in titles))
    for name, (b, t, h, d, mean) in CASES.items():
        kind = f"documents of {mean}" if mean else "all see all"
        print(f"{name}: B={b} T={t} H={h} D={d}, {kind}")
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (jax.random.normal(key, (b, t, h, d)) for key in keys)
        best = measure(contenders, (q, k, v, *intervals(b, t, mean)), options.rounds)
        whole = best["reference"][1, 1]
        for contender, times in best.items():
            columns = "".join(f"{x:15.1f}" for x in times.ravel())
            print(f"  {contender:20}{columns}{times[1, 1] / whole:14.2f}x", flush=True)


if __name__ == "__main__":
    main()
