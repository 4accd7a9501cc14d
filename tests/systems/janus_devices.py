"""Run by test_janus_devices.py in a process with 8 devices: a step of Janus by every table."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from tests.systems.test_janus import (
    DATA,
    GEN,
    PARAMS,
    SPECIAL,
    SYSTEM,
    UND,
    Document,
    TextSpan,
    assert_close,
)
from unijax.core import tree
from unijax.data.batch import BatchMaker
from unijax.data.rows import Placed
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.stage import OptimizerConfig, Rule, StageConfig

FULL = "fsdp_tensor_sequence"
# A mesh, and the parts in which the rows of a step are worked.
CASES = {
    "data": (MeshConfig(data=8), 1),
    "fsdp": (MeshConfig(data=2, fsdp=-1, table="fsdp"), 1),
    "fsdp_tensor, in parts": (MeshConfig(data=2, fsdp=2, tensor=2, table="fsdp_tensor"), 2),
    FULL: (MeshConfig(data=1, fsdp=2, sequence=2, tensor=2, table=FULL), 1),
}
B1 = 0.9
STAGE = StageConfig(
    "stage",
    steps=10,
    rules=(Rule("vqmodel/", frozen=True), Rule("")),
    # No clipping: the first moment after a step is a share of the gradient.
    optimizers={"main": OptimizerConfig(learning_rate=1e-3, b1=B1, clip_norm=1e30)},
)
LEARNING_RATE = 0.1  # of SGD


def rows_of_documents() -> list[list[Document]]:
    """Eight rows that differ in length and kind; the last is empty."""
    understood = Document("a", (UND[0], TextSpan(range(7, 15), (1.0, 0.5) * 4)))
    made = Document("b", (TextSpan(range(20, 26), (0.0,) * 6), GEN[1]))
    both = Document("c", (UND[1], GEN[2], TextSpan((30, 31), (1.0, 1.0))))
    text = Document("d", (TextSpan(range(7, 47), (1.0,) * 40),))
    return [[understood, made], [both], [text], [made, understood, both], [both], [text, made], []]


def host_batch():
    rows = rows_of_documents()
    rows += [[]] * (8 - len(rows))
    placed = [[Placed(document, "s", i, 0) for i, document in enumerate(row)] for row in rows]
    return BatchMaker(dataclasses.replace(DATA, rows=8), SPECIAL, None)(placed)


def step(config: MeshConfig, devices: list, parts: int = 1):
    """Loss and gradients of a step, parameters after one of SGD, and the compiled step."""
    mesh = make_mesh(config, devices)
    trainer = setup.build(SYSTEM, STAGE, mesh, config.table, jnp.float32, seed=0, parts=parts)
    state = trainer.begin(jax.tree.map(lambda x, a: jax.device_put(np.asarray(x), a.sharding),
                                       PARAMS, trainer.abstract))  # fmt: skip
    old, batch = jax.tree.map(jnp.copy, state.params), trainer.put(host_batch())
    compiled = trainer.train_step.lower(state, batch).compile()
    with jax.transfer_guard("disallow"):
        state, metrics = compiled(state, batch)
    (moments,) = [s for s in state.opt_state["main"] if isinstance(s, optax.ScaleByAdamState)]
    grads = jax.tree.map(lambda m: m / (1 - B1), moments.mu)
    after = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, old, grads)
    for path, x in tree.flatten(after).items():
        declared = tree.flatten(trainer.abstract)[path].sharding
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, declared.spec), x.ndim), path
    total, weight = metrics["loss"]
    return float(total / weight), jax.device_get((grads, after)), compiled


def check_gathered(compiled, sequence: bool) -> None:
    """Parameters, and where positions are split keys, values and image tokens; no other array."""
    pattern = r"= \(?f32\[([\d,]*)\]\S* all-gather.*op_name=\"([^\"]*)\""
    for shape, source in re.findall(pattern, compiled.as_text()):
        allowed = ["conv_general_dilated"] + ["self_attn", "Projector"] * sequence
        assert shape.count(",") < 2 or any(a in source for a in allowed), (shape, source)


def main():
    want, (want_grads, want_after), _ = step(MeshConfig(), jax.devices()[:1])
    assert np.isfinite(want)
    assert want > 1
    for name, (config, parts) in CASES.items():
        loss, (grads, after), compiled = step(config, jax.devices(), parts)
        np.testing.assert_allclose(loss, want, rtol=1e-5, err_msg=name)
        assert_close(grads, want_grads)
        assert_close(after, want_after)
        check_gathered(compiled, config.sequence > 1)
    print("equal")


if __name__ == "__main__":
    main()
