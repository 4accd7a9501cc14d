"""`unijax sweep`: the runs of a study, one after another, through the one trainer.

A sweep file is a config file with a second function: `get_config(...)` is the run at any size,
`get_sweep()` the grid (`scaling.grid.GridConfig`). Each run gets a directory named by what it is;
a repeated sweep skips what is done and resumes what is not.
"""

import dataclasses
import datetime
import json
import pathlib
import time

import numpy as np

from unijax.core import cost, storage
from unijax.core.batch import PackedBatch
from unijax.core.errors import UserError
from unijax.core.paths import is_address
from unijax.core.record import build, to_json
from unijax.data.config import GROUPS
from unijax.data.loader import Loader, PlanIterator
from unijax.data.rows import RowStream
from unijax.data.sources import open_sources
from unijax.data.tokenizer import load as load_tokenizer
from unijax.main import config as config_lib
from unijax.main.gather import DAMAGED, LISTED, RESULT, Place, gather, record, trained
from unijax.main.run import RunConfig, make_system, resolve
from unijax.main.train import shared_tables, train
from unijax.main.trunk import TrunkNotFinite, train_on_trunk, with_length
from unijax.scaling.grid import Cell, GridConfig, cells, run_id
from unijax.scaling.ladder import rung
from unijax.systems.registry import recipe
from unijax.train.flops import training_flops
from unijax.train.guard import NotFinite
from unijax.train.schema import config_of_today

MEASURED = 4  # batches from which tokens and FLOPs of a step are planned
# What a ladder decides of a decoder.
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim",
)  # fmt: skip
NEAR = 0.1  # what an epoch of the data may differ from what a grid says of it
# What a run learns does not hang on these, and a name that did would change with them.
NOT_IN_ID = {"": ("hardware",), "loop": ("hang_seconds", "keep_every")}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of a sweep."""

    id: str
    cell: Cell
    run: RunConfig


def plan(file: str, overrides: list[str]) -> tuple[list[Planned], GridConfig]:
    """All runs of a sweep file, small and short ones first.

    Raises:
      UserError: for a mistake in the file.
    """
    base = resolve(config_lib.load(file), overrides)
    grid = build(GridConfig, config_lib.load(file, "get_sweep"), "sweep")
    if recipe(base.system).eats != "rows" or not base.validation.batches:
        raise UserError(
            file, f"system {base.system!r} with {base.validation.batches} held-out batches",
            "a decoder with validation.batches above 0, whose losses are what laws are fitted to",
            "Correct the config.",
        )  # fmt: skip
    if grid.kind == "epochs":
        _check_epoch(base, grid.unique_tokens)
    if grid.mup_width:
        small = with_width(base, grid.ladder, grid.mup_width).model
        base = dataclasses.replace(base, mup_base=small)
    sized = {width: with_width(base, grid.ladder, width) for width in grid.widths}
    tokens, batches = _measure(base)
    flops = {width: _step_flops(run, batches) for width, run in sized.items()}
    found = {}
    for cell in cells(
        grid,
        lambda width: flops[width] / tokens,
        lambda width: trained(sized[width]).non_embedding,
    ):
        run = with_length(sized[cell.width], cell.tokens / tokens)
        run = dataclasses.replace(run, seed=cell.seed)
        if cell.learning_rate is not None:
            run = _with_rate(run, cell.learning_rate)
        name = f"w{cell.width}_s{run.stage.steps}_{run_id(described(run))}"
        found.setdefault(name, Planned(name, cell, run))
    return list(found.values()), grid


def described(run: RunConfig) -> dict:
    """The whole resolved run as plain JSON, without what it learns nothing from: what names it."""
    found = to_json(run)
    for place, names in NOT_IN_ID.items():
        for name in names:
            (found[place] if place else found).pop(name)
    return found


def with_recorded_names(planned: list[Planned], directory: Place) -> list[Planned]:
    """The runs, under the names that the sweep in `directory` gave them.

    A name is made of a run's record, whose form may have changed since (`train.schema`): a study
    goes on under the names that it began with.
    """
    listed = storage.read_in(directory, LISTED)
    if listed is None:
        return planned
    names = {}
    try:
        for row in json.loads(listed)["runs"]:
            record = config_of_today(row["run"])
            names[run_id(described(resolve(record)))] = row["run_id"]
    except (*DAMAGED, UserError):
        return planned  # it is written anew
    return [
        dataclasses.replace(one, id=names.get(run_id(described(one.run)), one.id))
        for one in planned
    ]


def with_width(run: RunConfig, ladder: str, width: int) -> RunConfig:
    """The run with a decoder of a ladder's sizes; all else stays the config's."""
    sizes = rung(ladder, width).config.text
    text = dataclasses.replace(run.model.text, **{name: getattr(sizes, name) for name in SIZES})
    return dataclasses.replace(run, model=dataclasses.replace(run.model, text=text))


def _with_rate(run: RunConfig, rate: float) -> RunConfig:
    optimizers = {
        name: dataclasses.replace(o, learning_rate=rate) for name, o in run.stage.optimizers.items()
    }
    return dataclasses.replace(run, stage=dataclasses.replace(run.stage, optimizers=optimizers))


def _measure(run: RunConfig) -> tuple[float, list[PackedBatch]]:
    """Tokens of a step, padding excluded, and the batches that were looked at."""
    layout = make_system(run).layout
    loader = Loader(run.data, layout, load_tokenizer(run.tokenizer))
    try:
        batches = [next(loader) for _ in range(MEASURED)]
    finally:
        loader.close()
    return float(np.mean([np.sum(np.asarray(b.kind) != 0) for b in batches])), batches


def _check_epoch(run: RunConfig, unique: int) -> None:
    """Raises UserError if the data does not repeat after about `unique` tokens.

    Counted over two such passes, on lengths: no picture is decoded.
    """
    layout, tokenizer = make_system(run).layout, load_tokenizer(run.tokenizer)
    stream = RowStream(run.data, layout, open_sources(run.data, layout, tokenizer))
    steps = PlanIterator(stream, run.data.rows)
    tokens = repeated = 0
    while tokens < 2 * unique:
        metrics = next(steps)[1].metrics
        tokens += sum(metrics[f"{group}_tokens"] for group in GROUPS)
        repeated += metrics["repeated_tokens"]
    if abs((tokens - repeated) / (tokens / 2) - 1) > NEAR:
        raise UserError(
            "grid.unique_tokens",
            f"{unique:,}, while of the data's first {tokens:,} tokens {tokens - repeated:,} are "
            "different",
            "half of them: the tokens after which the data's sources repeat",
            "Set data.groups' limits so that all sources give out there, or change the number.",
        )


def _step_flops(run: RunConfig, batches: list[PackedBatch]) -> float:
    """Training FLOPs of a step without the frozen encoders, whose outputs can be kept."""
    found, totals = trained(run), []
    for batch in batches:
        amounts = found.system.amounts(batch)
        frozen = [c for c in found.system.costs if c.group in found.frozen]
        encoders = sum(float(v) for v in cost.forward(frozen, amounts).values())
        totals.append(float(training_flops(found.system, batch, found.rules)) - encoders)
    return float(np.mean(totals))


def sweep(file: str, directory: Place, overrides: list[str], only: str | None) -> None:
    """Runs what is not done, and gathers all into `runs.parquet`.

    Args:
      directory: a path, or an address.
      only: the id of one run; then nothing is gathered.
    """
    planned, grid = plan(file, overrides)
    planned = with_recorded_names(planned, directory)
    chosen = planned if only is None else [p for p in planned if p.id == only]
    if not chosen:
        raise UserError(
            "--only", repr(only), f"one of the {len(planned)} ids that --list prints", "Correct it."
        )
    storage.writable(storage.below(directory, "runs"))
    listed = [
        {"run_id": p.id, "cell": dataclasses.asdict(p.cell), "run": to_json(p.run)} for p in planned
    ]
    content = json.dumps({"grid": to_json(grid), "runs": listed}, indent=1)
    storage.write_in(directory, LISTED, content.encode())
    tables, pace = None, _Pace(chosen, directory)
    for i, one in enumerate(chosen):
        run_dir = _run_dir(directory, one)
        if storage.read_in(run_dir, RESULT) is not None:
            print(f"{i + 1} of {len(chosen)}: {one.id} is done")
            continue
        print(f"{i + 1} of {len(chosen)}: {one.id}{pace.left()}", flush=True)
        tables = tables or shared_tables(one.run, _of_tables(directory))
        state, log_dir, ended = "done", run_dir, [one]
        try:
            # Jobs of an array run side by side, and two must not write one trunk.
            trunk = longest(planned, one) if grid.share_trunk and only is None else one
            if trunk is one:
                train(one.run, run_dir, tables=tables)
            else:
                trunk_dir = _run_dir(directory, trunk)
                train_on_trunk(one.run, run_dir, trunk.run, trunk_dir, tables)
        except TrunkNotFinite:
            # No longer run of the trunk gets past that step either.
            state, log_dir = "diverged", trunk_dir
            ended = [p for p in planned[planned.index(one) :] if longest(planned, p) is trunk]
        except NotFinite:
            state = "diverged"
        for p in ended:
            record(p.run, p.cell, p.id, _run_dir(directory, p), log_dir, state)
        pace.done(one)
    if only is None:
        gather(directory)


def _run_dir(directory: Place, one: Planned) -> Place:
    return storage.below(directory, "runs", one.id)


def _of_tables(directory: Place) -> pathlib.Path:
    """Where outputs of encoders are kept: of a sweep in a bucket, on this machine."""
    if is_address(directory):
        return storage.cache_of(directory, "sweeps")
    return pathlib.Path(directory)


class _Pace:
    """How long what is left of a sweep will take, by the parameters and steps of its runs."""

    def __init__(self, chosen: list[Planned], directory: Place):
        left = [p for p in chosen if storage.read_in(_run_dir(directory, p), RESULT) is None]
        self._left = {p.id: trained(p.run).non_embedding * p.run.stage.steps for p in left}
        self._begun, self._done = time.monotonic(), 0.0

    def done(self, one: Planned) -> None:
        self._done += self._left.pop(one.id, 0.0)

    def left(self) -> str:
        """ "" before there is a run to go by."""
        if not self._done:
            return ""
        seconds = (time.monotonic() - self._begun) * sum(self._left.values()) / self._done
        return f"; about {datetime.timedelta(seconds=round(seconds))} left"


def longest(planned: list[Planned], one: Planned) -> Planned:
    """The run that differs from `one` in its length alone and is the longest such."""

    def rest(p: Planned) -> tuple:
        return (p.cell.width, p.cell.learning_rate, p.cell.seed)

    return max((p for p in planned if rest(p) == rest(one)), key=lambda p: p.run.stage.steps)
