"""Time of attention, forward and with its gradients, on packed rows: in blocks and as written.

    python bench/attention_chunked.py [--blocks 64 128] [--rounds 10]
    python bench/attention_chunked.py --lengths 512 1024 2048 [--plot docs/attention_cpu.svg]

Prints a table: of rows as the models here have them, or, with `--lengths`, of one packed row of
each length, in Markdown, with the memory that the compiler reports for temporaries. The contenders
take turns, and the best of the rounds counts, by the clock and by processor time (all threads): on
a busy machine the second is the one to compare.
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

LONG_ROW = 4, 64, 700  # heads, head dim, mean tokens of a document


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


def measure(compiled: dict, args, rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds `[program, (clock, processor)]` of each contender."""
    best = {name: np.full((2, 2), np.inf) for name in compiled}
    for _ in range(rounds):
        for name, both in compiled.items():
            for i, program in enumerate(both):
                before = spent()
                jax.block_until_ready(program(*args))
                best[name][i] = np.minimum(best[name][i], 1e3 * (spent() - before))
    return best


def random_inputs(b: int, t: int, h: int, d: int) -> list:
    return [jax.random.normal(key, (b, t, h, d)) for key in jax.random.split(jax.random.key(0), 3)]


def of_models(blocks: list[int], rounds: int) -> None:
    contenders = {"reference": attention_reference} | {
        f"blocks of {n}": functools.partial(attention_chunked, block_q=n, block_k=n) for n in blocks
    }
    titles = "forward ms", "cpu ms", "+ backward ms", "cpu ms", "of reference"
    print(f"{'':22}" + "".join(f"{t:>15}" for t in titles))
    for name, (b, t, h, d, mean) in CASES.items():
        kind = f"documents of {mean}" if mean else "all see all"
        print(f"{name}: B={b} T={t} H={h} D={d}, {kind}")
        args = *random_inputs(b, t, h, d), *intervals(b, t, mean)
        best = measure({n: programs(fn, args) for n, fn in contenders.items()}, args, rounds)
        whole = best["reference"][1, 1]
        for contender, times in best.items():
            columns = "".join(f"{x:15.1f}" for x in times.ravel())
            print(f"  {contender:20}{columns}{times[1, 1] / whole:14.2f}x", flush=True)


def by_length(lengths: list[int], rounds: int) -> np.ndarray:
    """Processor time of the reference over that of blocks `[length, (forward, both)]`."""
    h, d, mean = LONG_ROW
    print(f"One row of documents of {mean} tokens on average, {h} heads of {d}, float32.\n")
    titles = (
        "tokens", "reference: forward ms", "both ms", "MiB", "blocks: forward ms", "both ms", "MiB",
        "reference / blocks: forward", "both",
    )  # fmt: skip
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    ratios = []
    for t in lengths:
        args = *random_inputs(1, t, h, d), *intervals(1, t, mean)
        contenders = {"reference": attention_reference, "blocks": attention_chunked}
        compiled = {name: programs(fn, args) for name, fn in contenders.items()}
        best = {n: times[:, 1] for n, times in measure(compiled, args, rounds).items()}
        ratios.append(best["reference"] / best["blocks"])
        cells = [f"{t}"]
        for name, (_, both) in compiled.items():
            memory = both.memory_analysis().temp_size_in_bytes / 2**20
            cells += [*(f"{x:.0f}" for x in best[name]), f"{memory:.0f}"]
        print("| " + " | ".join([*cells, *(f"{x:.2f}" for x in ratios[-1])]) + " |", flush=True)
    return np.array(ratios)


def plot(lengths: list[int], ratios: np.ndarray, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for values, label in zip(ratios.T, ("forward", "forward with backward")):
        axes.plot(lengths, values, marker="o", label=label)
    axes.axhline(1, color="gray", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{n}" for n in lengths])
    axes.set_xlabel(f"tokens of a packed row, documents of {LONG_ROW[-1]} on average")
    axes.set_ylabel("processor time of the reference / of blocks")
    axes.set_title("CPU, float32: ratios of one run")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lengths", type=int, nargs="+", help="of one packed row")
    parser.add_argument("--plot", help="where to write a figure of --lengths")
    options = parser.parse_args()
    if options.lengths is None:
        return of_models(options.blocks, options.rounds)
    ratios = by_length(options.lengths, options.rounds)
    if options.plot:
        plot(options.lengths, ratios, options.plot)


if __name__ == "__main__":
    main()
