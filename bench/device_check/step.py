"""The step of Janus-Pro 1B's stage 3 on real packed rows, tower and VQ encoder in it.

Seconds, tokens a second, MFU on true FLOPs and memory beside what the plan says of the very program
that runs, and the largest parts of the step by profile.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.device_check import rows
from bench.device_check.profile import largest
from bench.device_check.program import chip, random_like, topology
from bench.device_check.worker import Asked, attempt, tell
from unijax.core import cost
from unijax.core.batch import PackedBatch
from unijax.models.llama import LlamaConfig
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.plan.compiled import described
from unijax.plan.hardware import Topology
from unijax.plan.memory import account
from unijax.plan.roofline import roofline
from unijax.plan.traffic import traffic
from unijax.plan.work import Work, work_of
from unijax.systems import micro
from unijax.systems.janus import SIZES, Janus, JanusConfig
from unijax.train import metrics as metrics_lib
from unijax.train import setup
from unijax.train.setup import Trainer
from unijax.train.stage import OptimizerConfig, Rule, StageConfig
from unijax.train.state import TrainState

REMAT = "full"
SLOTS = {"und": 3, "gen": 6}
STAGE = StageConfig(
    name="stage3",
    steps=1000,
    rules=(Rule("vqmodel/", frozen=True), Rule("")),
    optimizers={"main": OptimizerConfig(learning_rate=4e-5)},
)
REHEARSED = Topology("h100", (1,), 1)  # whose plan a rehearsal is shown
WARM_UP, STEPS, PROFILED = 2, 12, 2


@dataclasses.dataclass(frozen=True)
class Size:
    """Of the model and of a step."""

    model: JanusConfig
    rows: int
    length: int


FULL = Size(SIZES["janus_pro_1b"], rows=8, length=4096)
# One layer of a decoder of the demo's kind: what compiles in seconds.
_TEXT = LlamaConfig(micro.VOCABULARY, 32, 64, 1, 2, 2, 16)
SMALL = Size(JanusConfig(_TEXT, micro.VISION, micro.VQ, 64), rows=2, length=160)


def size(small: bool) -> Size:
    return SMALL if small else FULL


def trainer_of(of: Size, devices: list | None = None) -> Trainer:
    """Of the stage on one device."""
    system = Janus(of.model, dtype=jnp.bfloat16, remat=REMAT)
    mesh = make_mesh(MeshConfig(data=1), devices)
    return setup.build(system, STAGE, mesh, "data", jnp.bfloat16, seed=0)


def batches(of: Size, layout: Any, small: bool) -> list[PackedBatch]:
    documents = rows.stored()
    if small:
        documents = rows.shortened(documents, layout, of.length, of.model.text.vocab_size)
    return [
        rows.batch(documents[i : i + of.rows], layout, of.length, SLOTS)
        for i in range(0, len(documents) - of.rows + 1, of.rows)
    ]


def lowered(trainer: Trainer, batch: PackedBatch) -> Any:
    """The step, traced for the trainer's device."""
    return trainer.train_step.lower(trainer.abstract_state, abstract(trainer, batch))


def abstract(trainer: Trainer, batch: PackedBatch) -> PackedBatch:
    """Shapes and shardings of a batch."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=trainer.batch_sharding), batch
    )


def run(asked: Asked) -> None:
    of = size(asked.small)
    trainer = trainer_of(of)
    given = batches(of, trainer.system.layout, asked.small)
    began = time.perf_counter()
    traced = lowered(trainer, given[0])
    compiled = traced.compile()
    compiling = time.perf_counter() - began
    plan = planned(of, trainer, given, compiled, compiling)
    tell({"name": "plan of the step", "compile_seconds": round(compiling, 1)} | plan)
    state = trainer.begin(random_like(trainer.abstract))
    on_device = [trainer.put(batch) for batch in given]
    state, *_ = take(compiled, state, on_device, WARM_UP)
    state, seconds, values = take(compiled, state, on_device, STEPS)
    tell(measured(seconds, values) | {"rows": of.rows, "tokens_of_a_row": of.length})

    def profiled() -> dict:
        with jax.profiler.trace(asked.folder / "profile"):
            take(compiled, state, on_device, PROFILED)
        shares = largest(asked.folder / "profile", compiled.as_text())
        return {"name": "largest parts of the step", "shares": shares}

    attempt("largest parts of the step", asked, profiled)


def take(
    step: Any, state: TrainState, given: list, count: int
) -> tuple[TrainState, np.ndarray, dict[str, float]]:
    """The state, seconds of each step, means of the metrics.

    The newest step is never waited for.
    """
    total, before, ends = None, None, [time.perf_counter()]
    for i in range(count):
        state, metrics = step(state, given[i % len(given)])
        total = metrics_lib.add_step(total, metrics)
        if before is not None:
            jax.block_until_ready(before)
            ends.append(time.perf_counter())
        before = metrics
    jax.block_until_ready(state)
    ends.append(time.perf_counter())
    return state, np.diff(ends), metrics_lib.quotients(total)


def measured(seconds: np.ndarray, values: dict[str, float]) -> dict:
    """The result of the steps that were taken."""
    median, at = float(np.median(seconds)), chip()
    found = {
        "name": "step",
        "seconds": median,
        "slow_seconds": float(np.percentile(seconds, 90)),
        "tokens_per_second": values["tokens"] / median,
        "true_tflop": values["flops"] / 1e12,
        "applied": values[metrics_lib.APPLIED],
        "loss": values.get("loss", float("nan")),
        "ok": values[metrics_lib.APPLIED] == 1,
    }
    if at is not None:
        found["mfu"] = values["flops"] / median / at.flops
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found if used is None else found | {"memory_gib": used / 2**30}


def planned(
    of: Size, trainer: Trainer, given: list[PackedBatch], compiled: Any, compiling: float
) -> dict:
    """What `unijax.plan` says of the program that runs, on rows that hold what these hold."""
    here = topology() or REHEARSED
    state = trainer.abstract_state
    facts = described(compiled, compiling)
    memory = account(state, abstract(trainer, given[0]), here.chip.memory, facts)
    work = work_in(of, trainer, given)
    moved = traffic(state, work, REMAT, 1, jnp.dtype(jnp.bfloat16).itemsize)
    line = roofline(here, np.array(jax.devices()[:1]), [], moved, work.true, work.executed)
    return {
        "topology": str(here),
        "memory_gib": memory.total / 2**30,
        "temporaries_gib": memory.temporaries / 2**30,
        "at_least_seconds": line.seconds,
        "in_turn_seconds": line.seconds_in_turn,
        "mfu": line.mfu,
        "mfu_in_turn": line.mfu_in_turn,
        "true_tflop": work.true / 1e12,
    }


def work_in(of: Size, trainer: Trainer, given: list[PackedBatch]) -> Work:
    """FLOPs of a step, of the mean batch: true ones, and with padding and empty slots."""
    system = trainer.system
    amounts = [jax.jit(system.amounts)(batch) for batch in given]
    needed = {unit: float(np.mean([x[unit] for x in amounts])) for unit in amounts[0]}
    worked = {cost.TOKENS: float(of.rows * of.length)}
    worked |= {cost.encoded_of(name): float(of.rows * count) for name, count in SLOTS.items()}
    amount = needed[cost.TOKENS], "token"
    return work_of(system, trainer.rules, REMAT, amount, needed, worked)
