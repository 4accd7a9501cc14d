"""`unijax train`: from a resolved config to a trained run directory."""

import dataclasses
import logging
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
from clu.parameter_overview import get_parameter_overview
from jax.sharding import AbstractMesh, Mesh

from unijax.core import lease, tree
from unijax.core.batch import ImageBatch, PackedBatch
from unijax.core.errors import UserError
from unijax.core.files import discard, writable_directory, write_file
from unijax.core.processes import is_lead, job_id
from unijax.core.record import to_json
from unijax.core.system import Params, RowSystem, System
from unijax.data.batch import Cached
from unijax.data.config import DataConfig
from unijax.data.loader import Loader, fixed_batches
from unijax.data.pictures import PictureConfig, PictureLoader
from unijax.data.sources import open_sources
from unijax.data.tokenizer import Tokenizer, check_vocab
from unijax.data.tokenizer import load as load_tokenizer
from unijax.main import samples
from unijax.main.run import RunConfig, make_mup_base, make_system
from unijax.parallel.sharding import describe, make_mesh, reader, row_shards
from unijax.train import cache, origin, setup
from unijax.train.checkpoint import FOLDER, read_params
from unijax.train.loop import Evaluator, fit, take, validation
from unijax.train.lora import without
from unijax.train.setup import Trainer
from unijax.train.state import TrainState, merge
from unijax.train.status import StatusKeeper
from unijax.train.weights import load_weights

# What a run directory holds before the first step is logged or saved.
_WITHOUT_A_STEP = {
    "status.json", "parameters.txt", "tokenizer", "metrics.jsonl", "tensorboard", FOLDER,
    origin.FOLDER, lease.FOLDER,
}  # fmt: skip


def train(
    run: RunConfig,
    run_dir: pathlib.Path,
    init_from: str | None = None,
    stop_at: int | None = None,
    tables: dict[str, Cached] | None = None,
) -> TrainState:
    """Trains, or resumes, the stage of `run` in `run_dir`.

    Args:
      init_from: run directory whose parameters the stage starts from, all of them.
      stop_at: save and return at this step.
      tables: of `shared_tables`, for a run that keeps the outputs of its encoders.

    Raises:
      UserError: for a mistake in the config or the data.
      Preempted: on SIGTERM, when all is saved.
    """
    if isinstance(run.data, DataConfig) and not run.tokenizer:
        raise UserError(
            "tokenizer", "''", "the directory of the text tokenizer", "Name it in the config."
        )
    was_there = run_dir.exists()
    is_new = not was_there or (run_dir.is_dir() and not any(run_dir.iterdir()))
    writable_directory(run_dir)
    with lease.hold(run_dir):
        try:
            with StatusKeeper(run_dir, run.stage.steps) as status:
                state = _train(run, run_dir, init_from, stop_at, tables, status)
                status.finish(int(state.step))
        except UserError:
            if is_new and is_lead() and _is_worthless(run_dir):
                for path in run_dir.iterdir():
                    discard(path)
                if not was_there:
                    run_dir.rmdir()
            raise
    return state


def _is_worthless(run_dir: pathlib.Path) -> bool:
    """Whether a mistake ended the run before there was anything to keep.

    Not where an engine started it: its table tells what became of every run.
    """
    log, saved = run_dir / "metrics.jsonl", run_dir / FOLDER
    trained = any(saved.glob("*")) or (log.exists() and log.stat().st_size > 0)
    names = {path.name for path in run_dir.iterdir()}
    return names <= _WITHOUT_A_STEP and not trained and not job_id()


def _train(
    run: RunConfig,
    run_dir: pathlib.Path,
    init_from: str | None,
    stop_at: int | None,
    tables: dict[str, Cached] | None,
    status: StatusKeeper,
) -> TrainState:
    mesh = make_mesh(run.mesh)
    if is_lead():
        logging.basicConfig(format="%(message)s")
        logging.getLogger("unijax").setLevel(logging.INFO)  # which kernels are picked
    index, count = reader(mesh)
    share = {"process_index": index, "process_count": count}
    system, trainer = build(run, mesh)
    tokenizer = load_tokenizer(run.tokenizer) if run.tokenizer else None
    params = initial_params(run, trainer, init_from)
    if isinstance(run.data, PictureConfig):
        batches, held_out = pictures(run, tokenizer, share)
    else:
        if run.cache_frozen and tables is None:
            tables = cached_tables(run, system, params, tokenizer, run_dir)
        batches, held_out = rows(run, system, tokenizer, tables, share)
    checks = {}
    if held_out:
        checks["validation"] = validation("validation", trainer.eval_step, held_out, trainer.put)
    if run.validation.samples:
        checks |= shown(run, system, tokenizer, held_out)
    if is_lead():
        # For whoever reads the checkpoints. A run that was killed may have left a part of it.
        if tokenizer is not None and not tokenizer.is_saved(run_dir / "tokenizer"):
            tokenizer.save(run_dir / "tokenizer")
        if init_from is not None and not origin.is_written(run_dir):
            origin.carry(init_from, run_dir)
        write_file(run_dir / "parameters.txt", parameter_table(trainer))
        print(describe(mesh, run.mesh.table), file=sys.stderr)
    state = trainer.begin(params)
    try:
        return fit(
            state,
            trainer,
            batches,
            run.stage.steps,
            run.loop,
            run_dir,
            {"stage": run.stage.name, "config": to_json(run)},
            checks,
            stop_at,
            [status],
        )
    finally:
        batches.close()


def build(run: RunConfig, mesh: Mesh) -> tuple[System, Trainer]:
    """The system of a run, and what trains it on the devices of the mesh."""
    system = make_system(run)
    check_rows(run, mesh)
    trainer = setup.build(
        system, run.stage, mesh, run.mesh.table, system.dtype, run.seed, run.accumulate,
        make_mup_base(run),
    )  # fmt: skip
    return system, trainer


def check_rows(run: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError where a step's rows do not divide over parts and devices."""
    name = "batch" if isinstance(run.data, PictureConfig) else "rows"
    rows, shards = getattr(run.data, name), row_shards(mesh)
    if run.accumulate < 1 or rows % (run.accumulate * shards):
        raise UserError(
            f"data.{name}",
            f"{rows} in {run.accumulate} parts (accumulate), split over {shards} (data x fsdp)",
            "as many rows on every device in every part",
            f"Make it a multiple of {max(run.accumulate, 1) * shards}, or change the parts.",
        )


def parameter_table(trainer: Trainer) -> str:
    """Every parameter with its shape, dtype and size, and how many of them train."""
    table = get_parameter_overview(trainer.abstract, include_stats=False)
    sizes = {path: math.prod(x.shape) for path, x in tree.flatten(trainer.abstract).items()}
    trained = sum(size for path, size in sizes.items() if not trainer.rules[path].frozen)
    return f"{table}\nTrained: {trained:,} of {sum(sizes.values()):,}\n"


def shown(
    run: RunConfig, system: System, tokenizer: Tokenizer | None, held_out: list
) -> dict[str, Evaluator]:
    """What is drawn, said or rebuilt for people to look at."""
    if isinstance(system, RowSystem):
        return {"samples": samples.drawn_and_said(run, system, tokenizer)}
    if hasattr(system, "rebuild") and held_out:
        return {"samples": samples.reconstructions(system, held_out[0], run.validation.samples)}
    return {}


def initial_params(run: RunConfig, trainer: Trainer, init_from: str | None) -> Params:
    """Random, or those of another run, or random with shipped parts put in.

    Adapters of the other run are folded into its kernels; those of this run begin anew.
    """
    if init_from is not None:
        params = read_params(init_from, without(trainer.abstract))
        return merge(params, trainer.adapters(run.seed))
    params = trainer.init(run.seed)
    # Copies of other groups come last: a config keeps its keys in the order of their names.
    for group, path in sorted(run.init.items(), key=lambda item: item[1].startswith(":")):
        if group not in params:
            raise UserError(
                "init", f"no parameter group {group!r}", f"one of {sorted(params)}", "Correct it."
            )
        like = {group: trainer.abstract[group]}
        if path.startswith(":"):
            params = params | {group: _copied(path[1:], group, params, like[group])}
        else:
            params = params | load_weights(path, like)
    return params


def _copied(other: str, group: str, params: Params, like: Params) -> Params:
    """What a group begins as that begins as another of the same model, or as a part of it."""
    source = tree.flatten(params.get(other, {}))
    wanted = tree.flatten(like)
    shapes = {path: x.shape for path, x in source.items()}
    if not source or any(shapes.get(path) != x.shape for path, x in wanted.items()):
        raise UserError(
            f"init.{group}", f":{other}, which does not hold the same parameters",
            f"another group of the model that does, of {sorted(params)}", "Correct it.",
        )  # fmt: skip
    copy = lambda path, x: jax.device_put(jnp.array(source[path], x.dtype), x.sharding)  # noqa: E731
    return tree.unflatten({path: copy(path, x) for path, x in wanted.items()})


def pictures(
    run: RunConfig, tokenizer: Tokenizer | None, share: dict[str, int]
) -> tuple[PictureLoader, list[ImageBatch]]:
    """The stream of pictures to train on, and the held-out batches; this process's share."""
    loader = PictureLoader(run.data, tokenizer, **share)
    if not run.validation.batches:
        return loader, []
    sources = tuple(s for group in run.validation.groups for s in group.sources)
    data = dataclasses.replace(run.data, sources=sources)
    fixed = PictureLoader(data, tokenizer, **share, shuffle=False)
    return loader, take(fixed, run.validation.batches)


def rows(
    run: RunConfig,
    system: RowSystem,
    tokenizer: Tokenizer,
    tables: dict[str, Cached] | None,
    share: dict[str, int],
) -> tuple[Loader, list[PackedBatch]]:
    """The stream of packed rows to train on, and the held-out batches, which never change.

    `share` says which rows of a batch this process reads (`parallel.sharding.reader`).
    """
    check_vocab(tokenizer, system.vocab_size)
    layout = system.layout
    loader = Loader(run.data, layout, tokenizer, cached=tables, **share)
    if not run.validation.batches:
        return loader, []
    data = dataclasses.replace(run.data, groups=run.validation.groups)
    fixed = fixed_batches(data, layout, tokenizer, run.validation.batches, cached=tables, **share)
    return loader, fixed


def shared_tables(run: RunConfig, folder: pathlib.Path) -> dict[str, Cached] | None:
    """Outputs of encoders for all runs that differ in the decoder alone, or None.

    Runs share their encoders where these come from files.
    """
    if not run.cache_frozen:
        return None
    system, trainer = build(run, make_mesh(run.mesh))
    if not system.encoders <= run.init.keys():
        return None
    params = initial_params(run, trainer, None)
    return cached_tables(run, system, params, load_tokenizer(run.tokenizer), folder)


def cached_tables(
    run: RunConfig, system: RowSystem, params: Params, tokenizer: Tokenizer, folder: pathlib.Path
) -> dict[str, Cached]:
    """Of every picture of all sources, held-out ones too, kept in `folder`."""
    sources = list(open_sources(run.data, system.layout, tokenizer).values())
    if run.validation.batches:
        held = dataclasses.replace(run.data, groups=run.validation.groups)
        sources += open_sources(held, system.layout, tokenizer).values()
    return cache.tables(system, params, run.data, sources, folder)
