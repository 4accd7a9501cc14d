"""The step of a config on the accelerators that are here, beside what `unijax plan` says of it.

    python -m bench.train_step --topology h200:1              # Janus-Pro 1B, stage 3, one GPU
    python -m bench.train_step --topology h100:8 --config configs/janus_pro.py:7b,stage3 \\
        mesh.fsdp=8 data.rows=16

Rows are real: the config's ratio, template and streams, filled from what is shipped (composed
scenes to ask about, to describe and to draw, word definitions), decoded and put on the device as
`unijax train` does. Parameters are random. The plan is made first, in a process of its own (for
GPUs it needs no more than jax[cuda13]; on a machine of several, run it on one); without --topology
there is none. Prints lines of Markdown.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.tokenizer import load as load_tokenizer
from unijax.main import config as config_lib
from unijax.main.run import RunConfig, ValidationConfig, resolve
from unijax.main.train import build, rows
from unijax.parallel.sharding import describe, make_mesh, reader
from unijax.train import metrics as metrics_lib
from unijax.train.report import machine
from unijax.train.setup import Trainer
from unijax.train.state import TrainState

CONFIG = "configs/janus_pro.py:1b,stage3"
ONE_GPU = ("mesh.fsdp=1", "data.rows=8")
WARM_UP = 3  # steps: the first compiles
SOURCES = {
    "und": (
        SourceConfig("questions", "question", "scenes", weight=3.0, limit=4000),
        SourceConfig("descriptions", "describe", "scenes", limit=4000),
    ),
    "text": (SourceConfig("words", "text", path="text"),),
    "gen": (SourceConfig("drawings", "generate", "scenes", limit=4000),),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step takes; of a plan, what it says.

    Attributes:
      seconds: at the median; of a plan, if all resources work at once.
      slow_seconds: at the 90th percentile; of a plan, if none works beside another.
      flops: that the model needs.
      tokens: without padding.
      mfu: share of the devices' bfloat16 peak; None where that is not known.
      memory_gib: of the device that holds most; None where it does not tell.
    """

    seconds: float
    slow_seconds: float
    flops: float
    tokens: float
    mfu: float | None
    memory_gib: float | None


def with_shipped_data(run: RunConfig) -> RunConfig:
    """The same stage, its groups filled from shipped data, with the shipped tokenizer."""
    data: DataConfig = run.data
    groups = tuple(GroupConfig(g.name, g.ratio, SOURCES[g.name]) for g in data.groups if g.ratio)
    return dataclasses.replace(
        run, data=dataclasses.replace(data, groups=groups), tokenizer="assets/tokenizer", init={},
        validation=ValidationConfig(), cache_frozen=False,
    )  # fmt: skip


def measure(run: RunConfig, steps: int) -> tuple[Step, float]:
    """Trains some steps, and the share of their time in which the host had no batch ready."""
    mesh = make_mesh(run.mesh)
    print(describe(mesh, run.mesh.table), file=sys.stderr)
    system, trainer = build(run, mesh)
    index, count = reader(mesh)
    share = {"process_index": index, "process_count": count}
    loader, _ = rows(run, system, load_tokenizer(run.tokenizer), None, share)
    with contextlib.closing(loader):
        state = trainer.begin(trainer.init(run.seed))
        state, *_ = take(trainer, state, loader, WARM_UP)
        state, seconds, waited, values = take(trainer, state, loader, steps)
    median = float(np.median(seconds))
    told = machine({"model_flops_per_second": values["flops"] / median}, useful=0.0)
    found = Step(
        seconds=median,
        slow_seconds=float(np.percentile(seconds, 90)),
        flops=values["flops"],
        tokens=values["tokens"],
        mfu=told.get("machine/mfu"),
        memory_gib=told.get("machine/device_memory_gib"),
    )
    return found, waited / float(seconds.sum())


def take(
    trainer: Trainer, state: TrainState, loader: Loader, steps: int
) -> tuple[TrainState, np.ndarray, float, dict[str, float]]:
    """The state, seconds of each step, seconds without a batch, means of the metrics.

    As the loop of a run: the newest step is never waited for, the one before it is.
    """
    total, before, waited, ends = None, None, 0.0, [time.perf_counter()]
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - asked
        state, metrics = trainer.train_step(state, trainer.put(batch))
        total = metrics_lib.add_step(total, metrics)
        if before is not None:
            jax.block_until_ready(before)
            ends.append(time.perf_counter())
        before = metrics
    jax.block_until_ready(state)
    ends.append(time.perf_counter())
    return state, np.diff(ends), waited, metrics_lib.quotients(total)


def planned(config: str, topology: str, overrides: list[str]) -> Step | None:
    """What `unijax plan` says; None, with its words on stderr, where it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "plan.json"
        asked = ["--config", config, "--topology", topology, "--json", str(path), "--tries", "0"]
        command = [sys.executable, "-m", "unijax.main.cli", "plan", *asked, *overrides]
        subprocess.run(command, stdout=sys.stderr, check=False)
        if not path.exists():
            return None
        found = json.loads(path.read_text())["plan"]
    line = found["roofline"]
    if line is None:
        return None
    return Step(
        seconds=line["seconds"],
        slow_seconds=line["seconds_in_turn"],
        flops=sum(part["true"] for part in found["parts"].values()),
        tokens=found["amount"],
        mfu=line["mfu"],
        memory_gib=found["memory"]["total"] / 2**30,
    )


def lines(measured: Step, plan: Step | None) -> list[str]:
    """A table: a line a figure."""

    def cells(step: Step | None) -> list[str]:
        if step is None:
            return [""] * 6
        return [
            f"{step.seconds:.3f}",
            f"{step.slow_seconds:.3f}",
            f"{step.tokens / step.seconds:,.0f}",
            f"{step.flops / step.tokens / 1e9:.2f}",
            "" if step.mfu is None else f"{step.mfu:.1%}",
            "" if step.memory_gib is None else f"{step.memory_gib:.1f}",
        ]

    names = (
        "step, s (median; all at once)",
        "step, s (90th percentile; in turn)",
        "tokens/s",
        "true GFLOP a token",
        "MFU, true FLOPs",
        "GiB a device",
    )
    body = zip(names, cells(measured), cells(plan))
    return ["| | measured | planned |", "|---|---|---|", *(f"| {' | '.join(x)} |" for x in body)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--topology", help="what is here, as `unijax plan` takes it")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("overrides", nargs="*", help="key=value; for the default config of one GPU")
    args = parser.parse_args()
    overrides = args.overrides or (list(ONE_GPU) if args.config == CONFIG else [])
    plan = planned(args.config, args.topology, overrides) if args.topology else None
    run = with_shipped_data(resolve(config_lib.load(args.config), overrides))
    measured, waited = measure(run, args.steps)
    here = jax.devices()
    print(f"`{args.config} {' '.join(overrides)}` on {len(here)} {here[0].device_kind}:\n")
    print("\n".join(lines(measured, plan)))
    print(f"\n{args.steps} steps; the host was waited for in {waited:.1%} of the time.")


if __name__ == "__main__":
    main()
