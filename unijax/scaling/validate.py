"""Checks a table of runs before anything is fitted: whatever is doubtful is refused, by name."""

import numpy as np

from unijax.core.errors import UserError
from unijax.scaling.points import Points
from unijax.scaling.table import STATES, Runs

FEWEST = 6  # runs, for a law of five constants
SMALLEST = 1000  # parameters or tokens: below it a number is in other units
GAP = 1000.0  # between neighbouring values of a column: above it units are mixed
WORSE = 1.25  # times the loss of a run with no more parameters and no more tokens


def points(
    runs: Runs, modality: str, parameters: str, drop_failed: bool, best_learning_rate: bool
) -> tuple[Points, list[str], list[str]]:
    """The runs of one system as points to fit.

    Args:
      modality: of `runs.losses`.
      parameters: the column that is N.
      drop_failed: leave out runs that are not done or have no finite loss.
      best_learning_rate: keep, of each setting, the rate with the least mean loss over seeds.

    Returns:
      The points, the ids of their runs, and the ids of those left out as failed.

    Raises:
      UserError: for whatever would spoil a fit.
    """
    if modality not in runs.losses:
        raise UserError(
            f"loss {modality!r}", f"losses of {list(runs.losses)}", "one of them", "Correct it."
        )
    if parameters not in runs:
        raise UserError(
            f"parameters column {parameters!r}", f"columns {list(runs.columns)}", "one of them",
            "Choose another with --parameters.",
        )  # fmt: skip
    _check_ids(runs)
    runs, failed = _without_failed(runs, modality, drop_failed)
    for name in (parameters, "tokens", "training_flops", "unique_tokens"):
        if name in runs:
            _check_counts(runs, name)
    runs = _one_learning_rate(runs, modality, best_learning_rate)
    n, d, loss = runs[parameters], runs["tokens"], runs.loss(modality)
    found = Points(n, d, loss, runs.get("training_flops"), runs.get("unique_tokens"))
    ids = list(runs["run_id"])
    _check_enough(found, parameters)
    _check_compute(found, ids)
    _check_losses(found, ids)
    return found, ids, failed


def _names(ids, mask) -> str:
    here = [str(i) for i, bad in zip(ids, mask) if bad]
    return ", ".join(here[:5]) + (f" and {len(here) - 5} more" if len(here) > 5 else "")


def _check_ids(runs: Runs) -> None:
    ids = [str(i) for i in runs["run_id"]]
    if "None" in ids or "" in ids:
        raise UserError(
            "run_id", "rows without an id", "one in every row", "The table may be half-written."
        )
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise UserError(
            "run_id", f"ids that stand twice: {', '.join(twice[:5])}", "an id for each run",
            "Remove the rows that are not meant.",
        )  # fmt: skip


def _without_failed(runs: Runs, modality: str, drop: bool) -> tuple[Runs, list[str]]:
    loss = runs.loss(modality)
    failed = ~np.isfinite(loss)
    if "state" in runs:
        unknown = sorted({str(s) for s in runs["state"]} - set(STATES))
        if unknown:
            raise UserError("state", f"{unknown}", f"one of {list(STATES)}", "Correct the table.")
        failed |= runs["state"] != "done"
    if failed.any() and not drop:
        raise UserError(
            f"loss {modality!r}",
            f"runs that diverged or are not done: {_names(runs['run_id'], failed)}",
            "a finite loss of a run that ended",
            "Finish or repeat them, or add --drop-failed to leave them out.",
        )
    return runs.where(~failed), [str(i) for i in runs["run_id"][failed]]


def _check_counts(runs: Runs, name: str) -> None:
    values, ids = runs[name], runs["run_id"]
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise UserError(
            f"column {name}", f"no positive number in {_names(ids, bad)}", "one in every row",
            "Fill it in; the table may be half-written.",
        )  # fmt: skip
    small = values < SMALLEST
    if small.any():
        raise UserError(
            f"column {name}",
            f"values down to {values.min():g}, in {_names(ids, small)}",
            f"counts, of at least {SMALLEST}",
            "Multiply out millions or billions.",
        )
    ordered = np.sort(np.log(values))
    if len(ordered) > 1 and np.diff(ordered).max() > np.log(GAP) and name != "training_flops":
        cut = ordered[np.argmax(np.diff(ordered))]
        raise UserError(
            f"column {name}",
            f"a leap of {np.exp(np.diff(ordered).max()):.0f} times between neighbouring values, "
            f"above {_names(ids, np.log(values) <= cut)}",
            "one unit in the whole column",
            "Look for millions beside plain counts.",
        )


def _one_learning_rate(runs: Runs, modality: str, best: bool) -> Runs:
    if "learning_rate" not in runs:
        return runs
    optional = [c for c in ("unique_tokens", "parameters", "size") if c in runs]
    settings = list(zip(runs["tokens"], *(runs[c] for c in optional)))
    keep = np.ones(len(runs), bool)
    for setting in set(settings):
        here = np.array([s == setting for s in settings])
        rates = np.unique(runs["learning_rate"][here])
        if len(rates) < 2:
            continue
        if not best:
            raise UserError(
                "learning_rate",
                f"{len(rates)} rates of one setting, in {_names(runs['run_id'], here)}",
                "one for each size and number of tokens",
                "Add --best-learning-rate to keep the one with the least loss.",
            )
        of = {r: runs.loss(modality)[here & (runs["learning_rate"] == r)].mean() for r in rates}
        keep &= ~here | (runs["learning_rate"] == min(of, key=of.get))
    return runs.where(keep)


def _check_enough(found: Points, parameters: str) -> None:
    if len(found) < FEWEST:
        raise UserError(
            "runs", f"{len(found)} to fit", f"at least {FEWEST}", "Add runs; nothing was fitted."
        )
    for name, values in ((parameters, found.parameters), ("tokens", found.tokens)):
        if len(np.unique(values)) < 2:
            raise UserError(
                f"column {name}", f"{values[0]:g} in every row", "several values",
                "A law needs runs of several sizes and lengths; nothing was fitted.",
            )  # fmt: skip


def _check_compute(found: Points, ids: list[str]) -> None:
    ratio = found.compute / (6 * found.parameters * found.tokens)
    away = np.abs(np.log(ratio / np.median(ratio)))
    if away.max() > np.log(100):
        raise UserError(
            "columns training_flops, parameters, tokens",
            f"compute over 6 N D of {ratio[np.argmax(away)]:.3g} where the others have "
            f"{np.median(ratio):.3g}, in {_names(ids, away > np.log(100))}",
            "one unit in each column",
            "Look for millions, billions or petaFLOPs beside plain counts.",
        )
    if not 0.05 < np.median(ratio) < 1000:
        raise UserError(
            "columns training_flops, parameters, tokens",
            f"compute over 6 N D of {np.median(ratio):.3g} in the middle",
            "about 1",
            "Look for a column in other units.",
        )


def _check_losses(found: Points, ids: list[str]) -> None:
    odd = (found.loss <= 0) | (found.loss > 30)
    if odd.any():
        raise UserError(
            "losses", f"{found.loss[odd][0]:g} in {_names(ids, odd)}", "nats per token, 0 to 30",
            "Convert them.",
        )  # fmt: skip
    smaller = (found.parameters[:, None] >= found.parameters) & (
        found.tokens[:, None] >= found.tokens
    )
    best = np.where(smaller, found.loss, np.inf).min(axis=1)
    worse = found.loss > WORSE * best
    if worse.any():
        raise UserError(
            "losses",
            f"runs far worse than smaller and shorter ones: {_names(ids, worse)}",
            f"at most {WORSE} times the loss of a run with no more parameters and tokens",
            'They look diverged: repeat them, or set their state to "diverged" and add '
            "--drop-failed.",
        )
