"""A program that is measured: what it runs, on what, and the least that it must do."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.clock import seconds
from bench.device_check.worker import Asked, attempt
from unijax.plan.hardware import CHIPS, Chip, Topology

ROUNDS = 5
BESIDE = 4  # programs that are compiled at once
SCALE = 0.02  # of random parameters
_NOISE = np.random.default_rng(0).standard_normal(1 << 20, np.float32)


@dataclasses.dataclass(frozen=True)
class Program:
    """What compiles ahead of time for a device that is not there, and runs where it is.

    Attributes:
      name: what it is, for people.
      fn: a function of arrays; statics are bound.
      make: its arguments, trees of arrays; `jax.eval_shape` gives the abstract ones.
      flops: of products and convolutions that it must do.
      moved: bytes that it must read and write.
      amount: how many of `unit` a call works.
      unit: "image", "token", ...
      carried: how many of its first arguments it consumes, and gives back as its results.
    """

    name: str
    fn: Callable
    make: Callable[[], tuple]
    flops: float
    moved: float
    amount: float = 1
    unit: str = "call"
    carried: int = 0

    def lower(self, sharding: jax.sharding.Sharding | None = None) -> Any:
        """The program traced for the device of the context (`jax.set_mesh`), not compiled."""
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(self.make),
        )
        return jax.jit(self.fn, donate_argnums=tuple(range(self.carried))).lower(*placed)


def random_like(tree: Any) -> Any:
    """Arrays of the shapes in `tree`: scales of norms 1, all else noise.

    Zeros would run faster than what is real: a chip draws less power for them.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = tuple((_is_scale(path), x.shape, jnp.dtype(x.dtype)) for path, x in paths)
    return structure.unflatten(_maker(leaves)(_NOISE))


@functools.cache
def _maker(leaves: tuple) -> Callable:
    return jax.jit(lambda noise: [_fill(noise, *leaf) for leaf in leaves])


def _is_scale(path: tuple) -> bool:
    return bool(path) and getattr(path[-1], "key", "") in ("scale", "weight")


def _fill(noise: jax.Array, is_scale: bool, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if is_scale:
        return jnp.ones(shape, dtype)
    size = math.prod(shape)
    times = -(-size // noise.size)
    repeated = jnp.broadcast_to((SCALE * noise).astype(dtype), (times, noise.size))
    return repeated.reshape(-1)[:size].reshape(shape)


def size_of(tree: Any) -> int:
    """Bytes."""
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def topology() -> Topology | None:
    """The one device that is here, as plans name it; None for one that they do not know."""
    kind = jax.devices()[0].device_kind.lower()
    keys = [key for key, c in CHIPS.items() if c.platform == "cuda" and key in kind]
    return Topology(keys[0], (1,), 1) if keys else None


def chip() -> Chip | None:
    """Its published figures."""
    here = topology()
    return here and here.chip


def line(program: Program, times: list[float], at: Chip | None, **more: Any) -> dict:
    """A result: the median and the spread of a call, and its share of the roofline."""
    median = float(np.median(times))
    out = {
        "name": program.name,
        "seconds": median,
        "least_seconds": min(times),
        "most_seconds": max(times),
        f"{program.unit}s_per_second": program.amount / median,
        "tflops": program.flops / median / 1e12,
        "gb_per_second": program.moved / median / 1e9,
    }
    if at is not None:
        memory = program.moved / at.memory_bandwidth
        bounds = {"compute": program.flops / at.flops, "memory": memory}
        out["bound"] = max(bounds, key=bounds.get)
        out["roofline_seconds"] = bounds[out["bound"]]
        out["share_of_roofline"] = out["roofline_seconds"] / median
    return out | more


def measure_all(programs: Sequence[Program], asked: Asked) -> None:
    """Compiles some beside each other, runs and times them one after another; then the next some.

    Nothing is timed while something compiles, but what has not compiled in three fifths of the time
    that is left is not waited for.
    """
    pool = ThreadPoolExecutor(BESIDE)
    for first in range(0, len(programs), BESIDE):
        some, tasks = programs[first : first + BESIDE], {}
        for program in some:
            attempt(program.name, asked, functools.partial(_begin, program, tasks, pool), needs=15)
        wait([task for task, _ in tasks.values()], timeout=max(0.6 * asked.left, 0))
        for program in some:
            if program.name in tasks:
                task, began = tasks[program.name]
                measured = functools.partial(_measured, program, task, began)
                attempt(program.name, asked, measured, needs=5)
    pool.shutdown(wait=False, cancel_futures=True)


def _begin(program: Program, tasks: dict, pool: ThreadPoolExecutor) -> None:
    lowered, began = program.lower(), time.perf_counter()

    def compile_() -> tuple[Any, float]:
        compiled = lowered.compile()
        return compiled, time.perf_counter() - began

    tasks[program.name] = pool.submit(compile_), began


def _measured(program: Program, task: Any, began: float) -> dict:
    if not task.done():
        took = time.perf_counter() - began
        return {"name": program.name, "skipped": f"not compiled in {took:.0f} s"}
    compiled, compiling = task.result()
    given = program.make()
    state, rest = given[: program.carried], given[program.carried :]
    del given

    def call() -> Any:
        nonlocal state
        out = compiled(*state, *rest)
        if program.carried:
            state = out
        return out

    times = seconds(call, ROUNDS)
    return line(program, times, chip(), compile_seconds=round(compiling, 1))
