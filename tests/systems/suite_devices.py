"""A step of a small system by every table, in a process with 8 devices.

    python -m tests.systems.suite_devices MODULE CLASS

The class is a `tests.systems.system_suite.SystemSuite`.
"""

import importlib
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from tests.systems.small import assert_close, gradients
from tests.systems.system_suite import SystemSuite
from unijax.core import tree
from unijax.parallel.sharding import MeshConfig

FULL = "fsdp_tensor_sequence"
# A mesh, and the parts in which the rows of a step are worked.
CASES = {
    "data": (MeshConfig(data=8), 1),
    "fsdp": (MeshConfig(data=2, fsdp=-1, table="fsdp"), 1),
    "fsdp_tensor, in parts": (MeshConfig(data=2, fsdp=2, tensor=2, table="fsdp_tensor"), 2),
    FULL: (MeshConfig(data=1, fsdp=2, sequence=2, tensor=2, table=FULL), 1),
}
LEARNING_RATE = 0.1  # of SGD


def step(
    suite: SystemSuite, config: MeshConfig, devices: list, parts: int = 1
) -> tuple[float, Any, Any]:
    """Loss and gradients of a step, parameters after one of SGD, and the compiled step."""
    small = suite.small
    trainer = small.trainer(small.stage, config, devices, parts if small.system.rows_alone else 1)
    state, batch = small.begin(trainer), trainer.put(small.host_batches()[0])
    old = tree.flatten(jax.tree.map(jnp.copy, state.params))
    compiled = trainer.train_step.lower(state, batch).compile()
    with jax.transfer_guard("disallow"):
        state, metrics = compiled(state, batch)
    found = gradients(state)
    assert found.keys() == small.stage.optimizers.keys()
    grads = {p: g for group in found.values() for p, g in tree.flatten(group).items()}
    after = {path: old[path] - LEARNING_RATE * g for path, g in grads.items()}
    declared = tree.flatten(trainer.abstract)
    for path, x in after.items():
        sharding = NamedSharding(x.sharding.mesh, declared[path].sharding.spec)
        assert x.sharding.is_equivalent_to(sharding, x.ndim), path
    total, weight = metrics["loss"]
    return float(total / weight), jax.device_get((grads, after)), compiled


def check_gathered(suite: SystemSuite, compiled: Any, sequence: bool) -> None:
    """Parameters, and where positions are split keys, values and image tokens; no other array."""
    allowed = suite.may_gather + suite.may_gather_positions * sequence
    pattern = r"= \(?f32\[([\d,]*)\]\S* all-gather.*op_name=\"([^\"]*)\""
    for shape, source in re.findall(pattern, compiled.as_text()):
        assert shape.count(",") < 2 or any(a in source for a in allowed), (shape, source)


def check_gradients(suite: SystemSuite, found: dict, want: dict) -> None:
    """Equal, but for rounding where that is all there is: norms and softmax take biases away."""
    rounding = 1e-7 * max(np.abs(x).max() for x in want.values())
    nothing = {path for path, x in want.items() if np.abs(x).max() < rounding}
    unused = suite.small.system.unused
    assert all(p.endswith("/bias") or any(tree.is_within(p, u) for u in unused) for p in nothing)
    assert all(np.abs(found[path]).max() < rounding for path in nothing)
    assert_close(*({p: x for p, x in y.items() if p not in nothing} for y in (found, want)))


def main(module: str, name: str) -> None:
    suite = getattr(importlib.import_module(module), name)()
    want, (want_grads, want_after), _ = step(suite, MeshConfig(), jax.devices()[:1])
    assert np.isfinite(want)
    for case, (config, parts) in CASES.items():
        loss, (grads, after), compiled = step(suite, config, jax.devices(), parts)
        np.testing.assert_allclose(loss, want, rtol=1e-5, err_msg=case)
        check_gradients(suite, grads, want_grads)
        assert_close(after, want_after)
        check_gathered(suite, compiled, config.sequence > 1)
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
