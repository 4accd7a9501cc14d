"""Time of attention on the device that is there, ours and its peers', on the same rows.

    python -m bench.attention [--cases "plain causal"] [--rounds 20] [--dtype bfloat16]
    python -m bench.attention --tune

Forward, backward, and both in one program, of every case of the table that tests and compile-check
share; milliseconds (the median of the rounds) and TFLOP/s on true FLOPs: those of the (query, key)
pairs that are allowed, `4 H D` forward and 2.5 times that backward; a case names how many these are
of the pairs of a causal row that is one document. A peer that is not installed, or cannot say a
case's mask, is left out; one that fails says so. `--tokens` shortens all rows. Writes a table in
Markdown and, with `--plot`, a figure.

With `--tune`: tries sizes of blocks for each head dim, and writes the quickest into
`unijax/ops/attention/block_sizes.json`, where the kernels find them.
"""

import argparse
import functools
import importlib.util
import os
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some memory too

import jax
import jax.numpy as jnp
import numpy as np

from bench import attention_peers, attention_tune
from bench.clock import seconds
from unijax.ops.attention import IMPLEMENTATIONS, attention, attention_pairs, select_implementation
from unijax.ops.attention.cases import CASES, Case, case_intervals
from unijax.ops.attention.reference import attention_reference

# Passes that are timed, and their FLOPs as those of so many forward passes.
FORWARDS = {"forward": 1, "backward": 2.5, "both": 3.5}


def ours(case: Case, start, end, dtype) -> dict:
    """The implementation that None picks, and chunked for comparison."""
    picked = select_implementation(case.tokens, case.keys, case.head_dim, dtype)
    ends = jnp.asarray(start), jnp.asarray(end)

    def of(name):
        return lambda q, k, v: attention(q, k, v, *ends, implementation=name)

    return {f"unijax {n}": of(n) for n in IMPLEMENTATIONS if n in (picked, "chunked")}


def jax_programs(attend, inputs):
    """Compiled `() -> results`: forward, backward from what forward keeps, both; and what waits."""
    q, k, v, dout = inputs

    def keep(q, k, v):
        return jax.vjp(attend, q, k, v)[1]

    forward = jax.jit(attend).lower(q, k, v).compile()
    both = jax_both(attend, inputs)
    pull = jax.jit(keep)(q, k, v)
    backward = jax.jit(lambda pull, dout: pull(dout)).lower(pull, dout).compile()
    return (
        lambda: forward(q, k, v),
        lambda: backward(pull, dout),
        both,
    ), jax.block_until_ready


def jax_both(attend, inputs):
    """Compiled `() -> output and gradients`."""

    def both(q, k, v, dout):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(dout)

    compiled = jax.jit(both).lower(*inputs).compile()
    return lambda: compiled(*inputs)


def torch_programs(attend, inputs):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, str(inputs[0].dtype))
    q, k, v, dout = (
        torch.tensor(np.asarray(x, np.float32), dtype=dtype, device=device) for x in inputs
    )
    for x in (q, k, v):
        x.requires_grad_()

    def wait(_):
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        with torch.no_grad():
            return attend(q, k, v)

    def both():
        out = attend(q, k, v)
        return out, *torch.autograd.grad(out, (q, k, v), dout)

    kept = attend(q, k, v)

    def backward():
        return torch.autograd.grad(kept, (q, k, v), dout, retain_graph=True)

    return (forward, backward, both), wait


def milliseconds(program, rounds: int, wait=jax.block_until_ready) -> float:
    return 1e3 * float(np.median(seconds(program, rounds, wait)))


def error(results, want) -> float:
    """Largest difference of the output, relative to the largest of the reference."""
    out = results[0]
    out = np.asarray(out.float().detach().cpu() if hasattr(out, "detach") else out, np.float32)
    return float(np.abs(out - want).max() / np.abs(want).max())


def random_inputs(case: Case, dtype) -> list:
    """q, k, v and a cotangent."""
    rng = np.random.default_rng(0)
    shapes = [(case.rows, t, h, case.head_dim) for t, h in (
        (case.tokens, case.heads), (case.keys, case.kv_heads), (case.keys, case.kv_heads),
        (case.tokens, case.heads),
    )]  # fmt: skip
    return [jnp.asarray(rng.standard_normal(s, np.float32), dtype) for s in shapes]


def with_sizes(case: Case, implementation: str, sizes: dict, dtype, rounds: int) -> float:
    """Milliseconds of both passes with these sizes of blocks."""
    ends = tuple(map(jnp.asarray, case_intervals(case)))

    def attend(q, k, v):
        return attention(q, k, v, *ends, implementation=implementation, **sizes)

    return milliseconds(jax_both(attend, random_inputs(case, dtype)), rounds)


def measure(case: Case, dtype, rounds: int, contenders=None):
    """Yields `(contender, ms of forward, backward, both, error)` or `(contender, what failed)`.

    Args:
      contenders: names of those that are measured; None: all.
    """
    start, end = case_intervals(case)
    inputs = random_inputs(case, dtype)
    # The seeing queries alone count: peers give those that see nothing the mean of all values.
    seeing = (start < end)[..., None, None]
    inputs[3] = inputs[3] * seeing
    want = np.asarray(
        jax.jit(attention_reference, static_argnames="scale")(
            *inputs[:3], start, end, scale=case.head_dim**-0.5
        ),
        np.float32,
    )
    peers = {n: (attend, jax_programs) for n, attend in ours(case, start, end, dtype).items()}
    for table, programs in (
        (attention_peers.OF_JAX, jax_programs),
        (attention_peers.OF_TORCH, torch_programs),
    ):
        if programs is torch_programs and importlib.util.find_spec("torch") is None:
            continue
        peers |= {name: (make, programs) for name, make in table.items()}
    for name, (attend, programs) in peers.items():
        if contenders is not None and name not in contenders:
            continue
        try:
            if not name.startswith("unijax"):
                attend = attend(case, start, end)
            if attend is None:
                continue
            passes, wait = programs(attend, inputs)
            results = passes[-1]()
            first = results[0] * (
                seeing if programs is jax_programs else results[0].new_tensor(seeing)
            )
            wrong = error((first,), want)
            yield name, *(milliseconds(program, rounds, wait) for program in passes), wrong
        except Exception as problem:  # a peer's, whatever it is
            yield name, f"{type(problem).__name__}: {str(problem).splitlines()[0][:80]}"


def plot(rows: list, path: str):
    """TFLOP/s of both passes together, a group of bars for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases, names = list(dict.fromkeys(r[0] for r in rows)), list(dict.fromkeys(r[1] for r in rows))
    figure, axes = plt.subplots(figsize=(2 + 1.6 * len(cases), 4))
    for i, name in enumerate(names):
        found = {case: speed for case, who, speed in rows if who == name}
        at = [cases.index(case) + i * 0.8 / len(names) for case in found]
        axes.bar(at, found.values(), 0.8 / len(names), align="edge", label=name)
    axes.set_xticks([n + 0.4 for n in range(len(cases))], cases, rotation=20, ha="right")
    axes.set_ylabel("TFLOP/s, forward with backward, true FLOPs")
    axes.set_title(jax.devices()[0].device_kind)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, help="at most so many of a row")
    parser.add_argument("--plot", help="where to write a figure")
    parser.add_argument("--tune", action="store_true", help="write sizes of blocks, no table")
    options = parser.parse_args()
    dtype = jnp.dtype(options.dtype)
    cases = {name: CASES[name] for name in options.cases}
    if options.tokens:
        cases = {name: case.small(options.tokens) for name, case in cases.items()}
    if options.tune and options.tokens:
        parser.error("--tune is for rows as they are: leave --tokens out")
    if options.tune:
        clock = functools.partial(with_sizes, dtype=dtype, rounds=options.rounds)
        command = " ".join(["python -m bench.attention", *sys.argv[1:]])
        return attention_tune.write(attention_tune.tune(cases, dtype.name, clock, command))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {dtype}\n")
    titles = [f"{what} ms | true TFLOP/s" for what in FORWARDS]
    print(" | ".join(["| case", "contender", *titles, "error |"]))
    print("|---" * 9 + "|")
    rows = []
    for name, case in cases.items():
        pairs, causal = map(float, attention_pairs(*map(jnp.asarray, case_intervals(case))))
        flops = 4 * case.heads * case.head_dim * pairs
        title = f"{name} ({pairs / causal:.2f} of causal-full pairs)"
        for who, *result in measure(case, dtype, options.rounds):
            if len(result) == 1:
                print(f"| {title} | {who} | {result[0]} | | | | | | |", flush=True)
                continue
            *times, wrong = result
            speeds = [n * flops / ms / 1e9 for n, ms in zip(FORWARDS.values(), times)]
            cells = [f"{ms:.3f} | {speed:.2f}" for ms, speed in zip(times, speeds)]
            print(" | ".join([f"| {title}", who, *cells, f"{wrong:.1e} |"]), flush=True)
            rows.append((name, who, speeds[-1]))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
