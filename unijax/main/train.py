"""`unijax train`: from a resolved config to a trained run directory."""

import dataclasses
import logging
import math
import os
import pathlib
import sys

import jax
from clu.parameter_overview import get_parameter_overview
from jax.sharding import AbstractMesh, Mesh
from tqdm import tqdm

from unijax.core import lease, storage, tree
from unijax.core.batch import PackedBatch
from unijax.core.errors import UserError
from unijax.core.files import check_allowed, discard, writable_directory, write_file
from unijax.core.paths import is_address, shipped
from unijax.core.processes import is_lead, job_id
from unijax.core.record import build as build_record
from unijax.core.record import to_json
from unijax.core.system import EncodedSystem, Params, RowSystem, System
from unijax.data import captions
from unijax.data.batch import Cached
from unijax.data.config import DataConfig
from unijax.data.loader import Loader, fixed_batches
from unijax.data.pictures import PictureConfig
from unijax.data.sources import open_sources
from unijax.data.tokenizer import Tokenizer, check_vocab
from unijax.data.tokenizer import load as load_tokenizer
from unijax.main import checking, samples
from unijax.main.advice import RowsTold, idle_slots
from unijax.main.checking import checked
from unijax.main.pictures import pictures, zero_shot
from unijax.main.run import RunConfig, make_mup_base, make_system
from unijax.parallel.sharding import describe, make_mesh, reader, row_shards
from unijax.train import base, cache, desk, origin, setup
from unijax.train.carry import carried, parted, tell_rounded
from unijax.train.checkpoint import FOLDER, read_params, read_run, step_directory, whole_steps
from unijax.train.loop import Evaluator, fit, validation
from unijax.train.lora import without
from unijax.train.preemption import at_once
from unijax.train.resume import check_stage
from unijax.train.setup import Trainer
from unijax.train.state import TrainState, merge
from unijax.train.status import StatusKeeper
from unijax.train.streaming import StoredParams

# What a run directory holds before the first step is logged or saved.
_WITHOUT_A_STEP = {
    "status.json", "parameters.txt", "tokenizer", "metrics.jsonl", "tensorboard", FOLDER,
    origin.FOLDER, lease.FOLDER, checking.FILE,
}  # fmt: skip


# Of a decoder, what may be another when its weights move on: sizes are told by their shapes, and
# these change nothing of what it works.
_FREE = ("vocab_size", "max_position_embeddings", "dropout")


class TqdmHandler(logging.Handler):
    """Writes lines of a log above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_above_bars() -> None:
    """In the place of what writes log lines to the terminal, a library's too, within a bar."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h) is logging.StreamHandler]:
        root.removeHandler(handler)
    if not any(isinstance(h, TqdmHandler) for h in root.handlers):
        handler = TqdmHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        # What else is set to speak of every request keeps silent, as it did.
        handler.addFilter(lambda r: r.levelno >= logging.WARNING or r.name.startswith("unijax"))
        root.addHandler(handler)


def train(
    run: RunConfig,
    run_dir: str | pathlib.Path,
    init_from: str | None = None,
    stop_at: int | None = None,
    tables: dict[str, Cached] | None = None,
) -> TrainState:
    """Trains, or resumes, the stage of `run` in `run_dir`.

    Args:
      run_dir: a path, or an address: then `train.desk` keeps its small files on this machine.
      init_from: run directory whose parameters the stage starts from, all of them.
      stop_at: save and return at this step.
      tables: of `shared_tables`, for a run that keeps the outputs of its encoders.

    Raises:
      UserError: for a mistake in the config or the data.
      Preempted: on SIGTERM or Ctrl-C, when all is saved.
    """
    if isinstance(run.data, DataConfig) and not run.tokenizer:
        raise UserError(
            "tokenizer", "''", "the directory of the text tokenizer", "Name it in the config."
        )
    in_bucket = is_address(run_dir)
    if in_bucket and run.cache_frozen and jax.process_count() > 1:
        raise UserError(
            "cache_frozen", "several processes and a run directory in a bucket",
            "a directory that all of them see", "Set cache_frozen=false, or mount the bucket.",
        )  # fmt: skip
    if not run.loop.save_frozen:
        _check_base(init_from)
    check_stage(run_dir, run.stage.name)
    was_there = not in_bucket and pathlib.Path(run_dir).exists()
    if not in_bucket:
        is_new = not was_there or not _names(pathlib.Path(run_dir))
        writable_directory(run_dir)
    with lease.hold(run_dir), desk.opened(run_dir) as folder:
        _train_before(run, folder)
        if in_bucket:
            is_new = not _names(folder)
        try:
            with (
                StatusKeeper(folder, run.stage.steps) as status,
                at_once(lambda: max(whole_steps(folder), default=0)),
            ):
                state = _train(run, folder, init_from, stop_at, tables, status)
                status.finish(int(state.step))
        except KeyboardInterrupt:
            if is_lead():
                saved = max(whole_steps(folder), default=None)
                has = "nothing was saved yet" if saved is None else f"step {saved} is saved"
                print(f"{run_dir}: {has}. The same command goes on from there", file=sys.stderr)
            raise
        except lease.Lost:
            raise  # what is there is another's
        except UserError:
            if is_new and is_lead() and _is_worthless(folder):
                check_allowed(desk.home(folder))  # or it is another's by now
                for path in folder.iterdir():
                    discard(path)
                if in_bucket:
                    desk.forget(folder)
                elif not was_there:
                    folder.rmdir()
            raise
    return state


def _check_base(init_from: str | None) -> None:
    """Raises a UserError where there is no run that keeps what a run does not."""
    if init_from is None:
        raise UserError(
            "loop.save_frozen", "false, for a run that starts from no other",
            "--init-from, the run directory that holds what is frozen", "Give it, or set it true.",
        )  # fmt: skip


def _train_before(run: RunConfig, run_dir: pathlib.Path) -> None:
    """Trains, or goes on with, the runs that this one starts from."""
    for name, first in (run.before or {}).items():
        place = _place_before(run_dir, name)
        if first.stage.steps not in whole_steps(place):
            if is_lead():
                print(f"{name}, from which it starts, in {place}:", file=sys.stderr)
            train(first, place)


def _place_before(run_dir: pathlib.Path, name: str) -> str | pathlib.Path:
    home = desk.home(run_dir)
    if is_address(home):
        return storage.join(storage.normal(home), desk.BEFORE, name)
    return run_dir / desk.BEFORE / name


def _names(folder: pathlib.Path) -> list[str]:
    """Of what is in a folder; of a file, its own."""
    return os.listdir(folder) if folder.is_dir() else [folder.name]


def _is_worthless(run_dir: pathlib.Path) -> bool:
    """Whether a mistake ended the run before there was anything to keep.

    Not where an engine started it: its table tells what became of every run.
    """
    if not run_dir.is_dir():  # somebody removed it
        return False
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
    run = checked(run, run_dir)
    mesh = make_mesh(run.mesh)
    if is_lead():
        # Which kernels are picked; above the bar, where there is one.
        logging.getLogger("unijax").setLevel(logging.INFO)
        log_above_bars()
    index, count = reader(mesh)
    share = {"process_index": index, "process_count": count}
    system, trainer = build(run, mesh)
    load = captions.load if isinstance(run.data, PictureConfig) else load_tokenizer
    tokenizer = load(run.tokenizer) if run.tokenizer else None
    if run.cache_frozen:
        check_frozen(run, system, trainer)
    params = initial_params(run, trainer, init_from, run_dir)
    if isinstance(run.data, PictureConfig):
        batches, held_out = pictures(run, system, params, tokenizer, share, run_dir)
    else:
        if run.cache_frozen and tables is None:
            tables = cached_tables(run, system, params, tokenizer, run_dir, trainer)
        batches, held_out = rows(run, system, tokenizer, tables, share)
    checks = {}
    if held_out:
        checks["validation"] = validation("validation", trainer.eval_step, held_out, trainer.put)
    if run.validation.prompts:
        checks["zero-shot"] = zero_shot(run, system, tokenizer, held_out, trainer)
    if run.validation.samples:
        checks |= shown(run, system, tokenizer, held_out)
    if is_lead():
        # For whoever reads the checkpoints. A run that was killed may have left a part of it.
        if tokenizer is not None and not tokenizer.is_saved(run_dir / "tokenizer"):
            tokenizer.save(run_dir / "tokenizer")
        if init_from is not None and not origin.is_written(run_dir):
            origin.carry(init_from, run_dir)
        table = parameter_table(trainer)
        write_file(run_dir / "parameters.txt", table)
        print(describe(mesh, run.mesh.table), file=sys.stderr)
        print(f"parameters of {run.system}: {table.splitlines()[-1]}", file=sys.stderr)
    told = []
    if isinstance(run.data, DataConfig):
        told.append(RowsTold(run.data, system.layout, tokenizer))
        idle = idle_slots(run.data, run.validation.sources, system.layout)
        for name, count in idle.items() if is_lead() else ():
            line = f"no source shows a picture of {name}, but every row has room for {count}"
            print(f"{line}, which is worked in vain: set data.slots.{name}=0", file=sys.stderr)
    description = {"stage": run.stage.name, "config": to_json(run)}
    if not run.loop.save_frozen:
        description |= base.record(run_dir, step_directory(init_from))
    state = trainer.begin(params)
    try:
        return fit(
            state,
            trainer,
            batches,
            run.stage.steps,
            run.loop,
            run_dir,
            description,
            checks,
            stop_at,
            [status, *told],
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


def initial_params(
    run: RunConfig, trainer: Trainer, init_from: str | None, run_dir: pathlib.Path
) -> Params:
    """Random, or those of another run, or random with parts of other runs or files put in.

    Adapters of the other run are folded into its kernels; those of this run begin anew.

    Args:
      run_dir: of this run, in which those that are trained before it lie.
    """
    if init_from is not None:
        if run.loop.save_frozen:  # else what is frozen stays as it lies there
            stored = StoredParams(init_from).arrays
            tell_rounded(init_from, stored, tree.flatten(trainer.abstract))
        try:
            params = read_params(init_from, without(trainer.abstract))
        except UserError as error:
            if (found := read_run(init_from)["config"]["system"]) == run.system:
                raise
            raise UserError(
                init_from, f"a checkpoint of {found!r} ({error.found})", f"one of {run.system!r}",
                "Take a run of that system, or single groups of this one with init.",
            ) from None  # fmt: skip
        return merge(params, trainer.adapters(run.seed))
    params = trainer.init(run.seed)
    flat, like = tree.flatten(params), tree.flatten(trainer.abstract)
    # Copies of other groups come last: a config keeps its keys in the order of their names.
    for group, source in sorted(run.init.items(), key=lambda item: item[1].startswith(":")):
        name, _, there = source.partition(":")
        if name in (run.before or {}):
            source = f"{storage.run_here(_place_before(run_dir, name))}:{there or group}"
        _check_decoder(run, group, source)
        flat |= carried(source, group, like, flat)
    return tree.unflatten(flat)


def _check_decoder(run: RunConfig, group: str, source: str) -> None:
    """Raises a UserError where weights of a decoder fit one that works otherwise: by other heads,
    rotary positions or norms."""
    place, name = parted(source, group)
    text = getattr(run.model, "text", None)
    if not (text and place and group == name == "language_model" and shipped(place).is_dir()):
        return
    record = read_run(shipped(place))["config"]["model"].get("text")
    if record is None:
        return
    theirs = build_record(type(text), record, f"{place}: model.text")
    for field in dataclasses.fields(text):
        was, now = getattr(theirs, field.name), getattr(text, field.name)
        if field.name not in _FREE and was != now:
            raise UserError(
                f"init.{group}: {source}", f"a decoder with {field.name} {was}",
                f"{now}, as in model.text", "Correct model.text, or name another run.",
            )  # fmt: skip


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


def check_frozen(run: RunConfig, system: System, trainer: Trainer) -> None:
    """Raises a UserError for encoders that learn while a cache would stand for them.

    Of several in rows those that are frozen are kept; one at least must be.
    """
    if not isinstance(system, RowSystem | EncodedSystem):
        return
    kept, error = 0, None
    for name, how in system.encoded.items():
        if isinstance(run.data, DataConfig) and not run.data.slots.get(name):
            continue
        own = [rule for p, rule in trainer.rules.items() if tree.is_within(p, how.group)]
        if not (learning := sum(not rule.frozen for rule in own)):
            kept += 1
            continue
        error = UserError(
            "cache_frozen",
            f"{how.group}, of whose {len(own)} parameters {learning} are trained",
            "an encoder that the rules of the stage freeze",
            "Freeze it in stage.rules, or set cache_frozen=false.",
        )
    if error is not None and not kept:
        raise error


def shared_tables(run: RunConfig, folder: pathlib.Path) -> dict[str, Cached] | None:
    """Outputs of encoders for all runs that differ in the decoder alone, or None.

    Runs share their encoders where these come from files.
    """
    if not run.cache_frozen:
        return None
    system, trainer = build(run, make_mesh(run.mesh))
    if run.before or not system.encoders <= run.init.keys():
        return None
    params = initial_params(run, trainer, None, folder)
    return cached_tables(run, system, params, load_tokenizer(run.tokenizer), folder, trainer)


def cached_tables(
    run: RunConfig, system: RowSystem, params: Params, tokenizer: Tokenizer, folder: pathlib.Path,
    trainer: Trainer | None = None,
) -> dict[str, Cached]:  # fmt: skip
    """Of every picture of all sources, held-out ones too, kept in `folder`.

    Of the encoders that `trainer` freezes, or of all: a picture for one that trains goes through it
    in every step.
    """
    rules = {} if trainer is None else trainer.rules

    def frozen(group: str) -> bool:
        return all(rule.frozen for p, rule in rules.items() if tree.is_within(p, group))

    sources = list(open_sources(run.data, system.layout, tokenizer).values())
    if run.validation.batches:
        held = dataclasses.replace(run.data, groups=run.validation.groups)
        sources += open_sources(held, system.layout, tokenizer).values()
    return cache.tables(system, params, run.data, sources, folder, frozen)
