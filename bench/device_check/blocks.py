"""A search over sizes of blocks; the best, checked, goes into the table that the kernels read."""

import functools

import jax

from bench import attention_tune
from bench.attention import with_sizes
from bench.device_check.kernels import TOLERANCES, Check, both, errors
from bench.device_check.program import ROUNDS
from bench.device_check.worker import Asked, attempt
from unijax.ops.attention import attention
from unijax.ops.attention.block_sizes import Entry
from unijax.ops.attention.cases import Case

DTYPE = "bfloat16"
# The first of each head dim; those of towers follow where there is time.
CASES = ("Janus 1B", "Transfusion 0.16B", "SigLIP-So400m at 384", "demo decoder")


def run(asked: Asked) -> None:
    for name in CASES[-1:] if asked.small else CASES:
        check = Check(name, DTYPE, None, asked.small)
        attempt(f"{name}: sizes", asked, functools.partial(search, name, check, asked), needs=25)


def search(name: str, check: Check, asked: Asked) -> dict:
    """The best sizes for a case. On a device they are written; a rehearsal writes a table aside."""

    def clock(case: Case, implementation: str, sizes: dict[str, int]) -> float:
        if asked.left < 5:
            raise TimeoutError("no time is left")
        return with_sizes(case, implementation, sizes, DTYPE, ROUNDS)

    command = "make device-check"
    found = attention_tune.tune({name: check.rows}, DTYPE, clock, command)
    if not found:
        return {"name": f"{name}: sizes", "failed": "no sizes ran"}
    (entry,) = found
    wrong = error_with(check, entry)
    result = {"name": f"{name}: sizes", "entry": vars(entry), "error": wrong}
    if wrong > TOLERANCES[DTYPE]:
        return result | {"ok": False}
    table = {"file": asked.folder / "block_sizes.json"} if asked.small else {}
    attention_tune.write(found, **table)
    return result


def error_with(check: Check, entry: Entry) -> float:
    """Largest error of output and gradients with the sizes of an entry."""
    attend = functools.partial(attention, implementation=entry.implementation, **entry.sizes)
    inputs = check.make()
    found = jax.jit(functools.partial(both, attend))(*inputs)
    return max(map(float, jax.jit(errors)(found, *inputs)))
