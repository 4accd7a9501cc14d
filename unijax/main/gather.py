"""`unijax gather`: what the runs of a sweep gave, in one table."""

import dataclasses
import json
import math
import os
import pathlib
import tempfile

import flax.linen as nn

from unijax.core import cost, storage, tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.core.system import RowSystem, init_shapes
from unijax.main.run import RunConfig, make_system, resolve
from unijax.scaling import table
from unijax.scaling.accounting import parameters_by_kind
from unijax.scaling.grid import Cell
from unijax.train.schema import config_of_today
from unijax.train.stage import Rule, match_rules
from unijax.train.writers import FILE as LOG
from unijax.train.writers import read_log

RESULT, LISTED, TABLE = "result.json", "sweep.json", "runs.parquet"
Place = str | os.PathLike
DAMAGED = (ValueError, LookupError, TypeError)  # empty, half a file, or not what was written


def record(
    run: RunConfig,
    cell: Cell,
    name: str,
    run_dir: Place,
    log_dir: Place,
    state: str,
) -> None:
    """Writes the row of a run that ended as `result.json` in its directory.

    Args:
      run_dir: a path, or an address.
      log_dir: likewise; whose log tells of its steps: its own, or its trunk's, if it ended there.
    """
    with storage.some_of(log_dir, [LOG]) as here:
        lines = read_log(here / LOG)
    periods = [x for x in lines if "flops" in x]
    found = trained(run)
    last, tokens, flops, encoders, seconds, repeated = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    losses = found.system.losses
    taught = dict.fromkeys(losses, 0.0)
    for row in periods:
        steps, last = row["step"] - last, row["step"]
        tokens += row["tokens"] * steps
        flops += row["flops"] * steps
        encoders += 0.0 if run.cache_frozen else _encoder_flops(found, row) * steps
        seconds += row["seconds_per_step"] * steps
        repeated += row["data/repeated_tokens"] * steps
        for name_, loss in losses.items():
            taught[name_] += row[f"data/{loss.group}_tokens"] * steps
    row = _described(name, to_json(run), cell.width) | {
        "parameters": found.parameters,
        "non_embedding_parameters": found.non_embedding,
        "tokens": tokens,
        **{f"tokens_{loss}": count for loss, count in taught.items()},
        "unique_tokens": tokens - repeated,
        "epochs": tokens / max(tokens - repeated, 1.0),
        "training_flops": flops - encoders,
        "seconds": seconds,
        "steps": last,
        "state": state,
        **dict.fromkeys(map(_column, losses)),
    }
    row |= _losses(lines, run.stage.steps) if state == "done" else {}
    storage.writable(run_dir)
    storage.write_in(run_dir, RESULT, json.dumps(row, indent=1).encode())


def _described(name: str, run: dict, width: int) -> dict:
    """What a row says of a run before it has begun."""
    return {
        "run_id": name,
        "system": run["system"],
        "size": f"w{width}",
        "seed": run["seed"],
        "learning_rate": run["stage"]["optimizers"]["main"]["learning_rate"],
    }


def _column(loss: str) -> str:
    return f"loss_{loss}{table.UNIT}"


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run trains.

    Attributes:
      rules: of every parameter.
      parameters: how many train.
      non_embedding: those of the decoder's layers, trained or not (`scaling.accounting`).
      frozen: the encoders that are frozen whole.
    """

    system: RowSystem
    rules: dict[str, Rule]
    parameters: int
    non_embedding: int
    frozen: frozenset[str]


def trained(run: RunConfig) -> Trained:
    """From shapes; nothing is initialised."""
    system = make_system(run)
    shapes = tree.flatten(nn.unbox(init_shapes(system)))
    rules = match_rules(run.stage, list(shapes))
    learning = {path for path, rule in rules.items() if not rule.frozen}
    groups = {path.split("/")[0] for path in learning}
    parameters = sum(math.prod(shapes[p].shape) for p in learning)
    non_embedding = parameters_by_kind(system)["decoder"]
    return Trained(system, rules, parameters, non_embedding, system.encoders - groups)


def _encoder_flops(found: Trained, row: dict) -> float:
    """Of the frozen encoders in a step: they ran once for each image that was read."""
    flops = 0.0
    for slots, how in found.system.encoded.items():
        tokens = found.system.layout.of_slots(slots).tokens
        images = row.get(cost.tokens_of(slots), 0.0) / tokens
        if how.group in found.frozen:
            amounts = {cost.encoded_of(slots): images}
            flops += sum(cost.forward(found.system.costs, amounts).values())
    return flops


def _losses(lines: list[dict], step: int) -> dict[str, float]:
    """Held-out losses at the last step, by modality."""
    start, end = "validation/", "/loss"
    at_end = [x for x in lines if x["step"] == step and any(k.startswith(start) for k in x)]
    assert at_end, f"no held-out losses at step {step}"
    return {
        _column(k.removeprefix(start).removesuffix(end)): v
        for k, v in at_end[-1].items()
        if k.startswith(start) and k.endswith(end)
    }


def _read_result(path: pathlib.Path, run_id: str) -> dict:
    """The row that `record` wrote."""
    try:
        row = json.loads(path.read_text())
        if row["run_id"] != run_id or row["state"] not in table.STATES:
            raise ValueError(f"of run {row['run_id']}, {row['state']}")
    except DAMAGED as e:
        raise UserError(
            str(path), f"a damaged file ({type(e).__name__}: {e})", f"the row of run {run_id}",
            "Remove it, and run the same unijax sweep again: it goes on from the run's checkpoint.",
        ) from e  # fmt: skip
    return row


def gather(directory: Place) -> None:
    """One row for every run of the sweep in `directory`; those that are not done say so.

    Args:
      directory: a path, or an address.

    Raises:
      UserError: if there is no sweep, or a file of it is damaged; it says which.
    """
    with storage.some_of(directory, [LISTED, f"runs/*/{RESULT}"]) as here:
        rows = _rows(here, directory)
    with tempfile.TemporaryDirectory() as folder:
        table.write(made := pathlib.Path(folder, TABLE), rows)
        storage.write_in(directory, TABLE, made.read_bytes())
    done = sum(r["state"] == "done" for r in rows)
    print(f"{done} of {len(rows)} runs done: {storage.below(directory, TABLE)}")


def _rows(directory: pathlib.Path, place: Place) -> list[dict]:
    listed = directory / LISTED
    if not listed.exists():
        raise UserError(
            str(place), f"no {LISTED}", "the directory of a sweep", "Run unijax sweep first."
        )
    try:
        runs = json.loads(listed.read_text())["runs"]
        described = [_described(x["run_id"], x["run"], x["cell"]["width"]) for x in runs]
        results = [directory / "runs" / row["run_id"] / RESULT for row in described]
    except DAMAGED as e:
        raise UserError(
            str(listed), f"a damaged file ({type(e).__name__}: {e})", "the list of a sweep's runs",
            "Run the same unijax sweep again: it writes it anew, and what is done stays.",
        ) from e  # fmt: skip
    rows, columns = [], ()
    if runs:
        columns = tuple(map(_column, make_system(resolve(config_of_today(runs[0]["run"]))).losses))
    for row, result in zip(described, results, strict=True):
        if result.exists():
            rows.append(_read_result(result, row["run_id"]))
        else:
            unknown = ("tokens", "parameters", "non_embedding_parameters", "training_flops")
            unknown += columns
            rows.append(row | {"state": "unfinished"} | dict.fromkeys(unknown))
    return rows
