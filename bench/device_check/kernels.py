"""Every kernel of attention against the reference, at real sizes, in 16 bits, both passes."""

import dataclasses
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from bench.device_check.program import Program
from bench.device_check.worker import Asked, attempt
from unijax.ops.attention import attention, select_implementation
from unijax.ops.attention.cases import CASES, Case, case_intervals
from unijax.ops.attention.reference import attention_reference

# Relative to the largest magnitude, of the output and of all gradients: factors and results keep 8
# bits of mantissa, or 11 (tests/ops/attention_suite.py).
TOLERANCES = {"bfloat16": 2**-7, "float16": 2**-10}
# Kernels that Hopper runs but does not pick, on what differs most.
ALSO = {"triton": ("Janus 1B", "grouped heads", "SigLIP-So400m at 384"), "chunked": ("Janus 1B",)}
SMALL = ("Janus 1B", "grouped heads")


@dataclasses.dataclass(frozen=True)
class Check:
    """A kernel on the rows of a case."""

    case: str
    dtype: str
    implementation: str | None  # None: the one that is picked
    small: bool = False

    @property
    def rows(self) -> Case:
        return CASES[self.case].small(96) if self.small else CASES[self.case]

    @property
    def picked(self) -> str:
        of = self.rows
        chosen = select_implementation(of.tokens, of.keys, of.head_dim, self.dtype)
        return self.implementation or chosen

    def make(self) -> tuple:
        """q, k, v, a cotangent, and the intervals."""
        c = self.rows
        of_q, of_k = (
            (c.rows, t, h, c.head_dim) for t, h in ((c.tokens, c.heads), (c.keys, c.kv_heads))
        )
        keys = jax.random.split(jax.random.key(0), 4)
        drawn = [
            jax.random.normal(key, shape, jnp.float32).astype(self.dtype)
            for key, shape in zip(keys, (of_q, of_k, of_k, of_q))
        ]
        return *drawn, *map(jnp.asarray, case_intervals(c))

    def program(self) -> Program:
        """Output and gradients of the kernel."""
        fn = functools.partial(both, functools.partial(attention, implementation=self.picked))
        name = f"{self.case}, {self.dtype}, {self.picked}"
        return Program(name, fn, self.make, flops=0, moved=0)


def both(attend, q, k, v, dout, start, end) -> tuple[Array, ...]:
    """Output, dq, dk, dv."""
    out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, start, end), q, k, v)
    return out, *pull(dout)


def wanted(q, k, v, dout, start, end) -> tuple[Array, ...]:
    """What the reference gives in float32 throughout, a head of keys at a time."""
    (b, tq, h, d), (_, tk, hkv, _) = q.shape, k.shape

    def by_head(x: Array, t: int) -> Array:
        return jnp.moveaxis(x.astype(jnp.float32).reshape(b, t, hkv, -1, d), 2, 0)

    def attend(q, k, v, start, end):
        return attention_reference(q, k, v, start, end, scale=d**-0.5)

    def one(args):
        with jax.default_matmul_precision("highest"):
            return both(attend, *args, start, end)

    parts = by_head(q, tq), by_head(k, tk), by_head(v, tk), by_head(dout, tq)
    found = jax.lax.map(one, parts)
    return tuple(
        jnp.moveaxis(x, 0, 2).reshape(b, -1, h_, d) for x, h_ in zip(found, (h, h, hkv, hkv))
    )


def errors(found: tuple, *inputs) -> tuple[Array, Array]:
    """Of the output and of the gradients together, relative to the largest of the reference.

    A NaN stays one.
    """
    want = wanted(*inputs)
    off = [jnp.max(jnp.abs(x.astype(jnp.float32) - y)) for x, y in zip(found, want)]
    largest = [jnp.max(jnp.abs(y)) for y in want]
    gradients = jnp.max(jnp.stack(off[1:])) / jnp.max(jnp.stack(largest[1:]))
    return off[0] / largest[0], gradients


def compare(check: Check) -> Program:
    """The program of `errors`, for what the kernel of a check gives."""
    own = check.program()

    def make():
        inputs = check.make()
        return jax.eval_shape(own.fn, *inputs), *inputs

    return Program(f"{own.name}: errors", errors, make, flops=0, moved=0)


def checks(small: bool) -> Iterator[Check]:
    """In the order in which they matter."""
    if small:
        yield from (Check(case, "bfloat16", None, small=True) for case in SMALL)
        return
    for dtype in TOLERANCES:
        yield from (Check(case, dtype, None) for case in CASES)
    for implementation, cases in ALSO.items():
        yield from (Check(case, "bfloat16", implementation) for case in cases)


def programs(small: bool = False) -> list[Program]:
    """Those that `make compile-check` sends through the compiler: one of a kind."""
    some = [Check("Janus 1B", dtype, None, small) for dtype in TOLERANCES]
    some += [] if small else [Check("Janus 1B", "bfloat16", "triton")]
    return [check.program() for check in some] + [compare(some[0])]


def run(asked: Asked) -> None:
    pool = ThreadPoolExecutor(8)
    compiled: dict[tuple, list] = {}  # cases of the same shapes share a program

    def begin(check: Check) -> list:
        key = (*jax.tree.leaves(jax.eval_shape(check.make)), check.picked)
        if key not in compiled:
            tasks = [p.lower().compile for p in (check.program(), compare(check))]
            compiled[key] = [pool.submit(task) for task in tasks]
        return compiled[key]

    waiting = []
    for check in checks(asked.small):
        try:
            waiting.append((check, begin(check)))
        except Exception as error:  # told in its turn
            waiting.append((check, error))
    for check, tasks in waiting:
        attempt(check.program().name, asked, functools.partial(result, check, tasks), needs=3)
    pool.shutdown(wait=False, cancel_futures=True)


def result(check: Check, tasks: Any) -> dict:
    """What a check found: errors, and whether two runs gave the same bits."""
    if isinstance(tasks, Exception):
        raise tasks
    kernel, compare_ = (task.result() for task in tasks)
    inputs = check.make()
    found, again = kernel(*inputs), kernel(*inputs)
    out, gradients = map(float, compare_(found, *inputs))
    tolerance = TOLERANCES[check.dtype]
    repeats = all(bool(jnp.array_equal(x, y)) for x, y in zip(found, again))
    return {
        "name": check.program().name,
        "output_error": out,
        "gradient_error": gradients,
        "tolerance": tolerance,
        "repeats": repeats,
        "ok": out <= tolerance and gradients <= tolerance and repeats,
    }
