"""Times of attention beside its peers, on rows of the models, in bfloat16.

A result has milliseconds forward and with the backward pass, TFLOP/s on true FLOPs, those of the
pairs that are seen, and its share of the skip limit: what a kernel would reach that works at the
chip's peak and leaves out every block of 128 by 128 without a pair that is seen.
"""

import functools
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bench import attention_peers
from bench.attention import FORWARDS, error, jax_both, milliseconds, torch_programs
from bench.device_check.kernels import Check, wanted
from bench.device_check.program import ROUNDS, chip
from bench.device_check.worker import Asked, attempt
from unijax.ops.attention import attention, attention_pairs
from unijax.ops.attention.blocks import visited_blocks

ROWS = (
    "Janus 1B", "plain causal", "whole images", "grouped heads", "SigLIP-L at 384",
    "Transfusion 0.16B",
)  # fmt: skip
DTYPE = "bfloat16"
BLOCK = 128
# Quick to compile, then the others.
QUICK, SLOW = ("ours", "cuDNN", "XLA", "torch SDPA"), ("torch FlexAttention",)


def run(asked: Asked) -> None:
    for contenders in (QUICK, SLOW):
        for case in ROWS[:1] if asked.small else ROWS:
            check = Check(case, DTYPE, None, asked.small)
            for contender in contenders:
                name = f"{case}, {contender}"
                attempt(name, asked, functools.partial(result, name, check, contender), needs=8)


def result(name: str, check: Check, contender: str) -> dict | None:
    """Of one contender; None where it is not here, or cannot say the mask."""
    inputs, ends = check.make()[:4], check.make()[4:]
    # The seeing queries alone count: peers give those that see nothing the mean of all values.
    seeing = (ends[0] < ends[1])[..., None, None]
    inputs = (*inputs[:3], inputs[3] * seeing)
    timed = passes(check, contender, inputs, ends)
    if timed is None:
        return None
    forward, both, wait = timed
    out = both()[0]
    rows = np.asarray(seeing)
    out = np.asarray(out.float().detach().cpu() if hasattr(out, "detach") else out, np.float32)
    want = np.asarray(jax.jit(wanted)(*inputs, *ends)[0])
    ms = {"forward": milliseconds(forward, ROUNDS, wait), "both": milliseconds(both, ROUNDS, wait)}
    found = {"name": name, "error": error((out * rows,), want)}
    return found | rates(check, ends, ms)


def passes(
    check: Check, contender: str, inputs, ends
) -> tuple[Callable, Callable, Callable] | None:
    """Forward, forward with backward, and what waits for either."""
    host = tuple(map(np.asarray, ends))
    if contender.startswith("torch"):
        if importlib.util.find_spec("torch") is None:
            return None
        attend = attention_peers.OF_TORCH[contender](check.rows, *host)
        if attend is None:
            return None
        (forward, _, both), wait = torch_programs(attend, inputs)
        return forward, both, wait
    if contender == "ours":
        attend = lambda q, k, v: attention(q, k, v, *ends)  # noqa: E731
    else:
        attend = attention_peers.OF_JAX[contender](check.rows, *host)
    if attend is None:
        return None
    compiled = jax.jit(attend).lower(*inputs[:3]).compile()
    forward = lambda: compiled(*inputs[:3])  # noqa: E731
    return forward, jax_both(attend, inputs), jax.block_until_ready


def rates(check: Check, ends, ms: dict[str, float]) -> dict:
    """Milliseconds, TFLOP/s on true FLOPs, and where the chip is known shares of the skip limit."""
    case, at = check.rows, chip()
    pairs = float(attention_pairs(*ends)[0])
    visited, _ = visited_blocks(*ends, case.keys, BLOCK, BLOCK)
    worked = float(jnp.sum(visited)) * BLOCK * BLOCK
    found: dict[str, float] = {"pairs_of_visited_blocks": pairs / worked}
    for what, took in ms.items():
        flops = FORWARDS[what] * 4 * case.heads * case.head_dim * pairs
        found[f"{what}_ms"] = took
        found[f"{what}_tflops"] = flops / took / 1e9
        if at is not None:
            found[f"{what}_of_skip_limit"] = flops / took * 1e3 / (at.flops * pairs / worked)
    return found
