"""Checks a table of runs before anything is fitted: whatever is doubtful is refused, by name."""

import collections
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from unijax.core.errors import UserError
from unijax.scaling.doubt import Doubt, names
from unijax.scaling.points import Points, clusters
from unijax.scaling.table import COUNTS_OF_N, NUMBERS, STATES, TEXT, UNIT, Runs

FEWEST = 8  # runs: a bootstrap draw for five constants has at least six different ones of them
SMALLEST = 1000  # parameters or tokens: below it a number is in other units
GAP = 1000.0  # between neighbouring values of a column: above it units are mixed
BETTER = 1.25  # times what a loss in proportion to parameters and tokens would be
ROWS = 128  # of a comparison of all runs with all, at one time
NEAREST = 5  # runs in size, among which compute over 6 N D is about the same
APART = 10.0  # times what it is among those: above it a row is in other units
ONE_SIZE = np.log(1.05)  # of log N: runs nearer than this are of one size
LEAPS = (2.0, 5.0)  # from a size to the next: C / D falls by at most, C / (6 N D) rises by at most
COMPUTE = (0.05, 300.0)  # times 6 N D in the middle: outside, a column is in other units
TIMES_6ND = 10.0  # above it, said as a doubt


def column_of_parameters(runs: Runs, asked: str) -> str:
    """The column that is N: the one asked for, or the first of the two that has numbers."""
    if asked:
        return asked
    for name in COUNTS_OF_N:
        column = runs.get(name)
        if column is not None and column.dtype != object and np.isfinite(column).any():
            return name
    return COUNTS_OF_N[0]


def points(
    runs: Runs, modality: str, parameters: str, drop_failed: bool, best_learning_rate: bool
) -> tuple[Points, Runs, list[str]]:
    """The runs of one system as points to fit.

    Args:
      modality: of `runs.losses`.
      parameters: the column that is N.
      drop_failed: leave out runs that are not done or have no finite loss.
      best_learning_rate: keep, of each setting, the rate with the least mean loss over seeds.

    Returns:
      The points, their rows, and the ids of those left out as failed.

    Raises:
      UserError: for whatever would spoil a fit.
    """
    runs, failed = _usable(runs, (modality,), parameters, drop_failed, best_learning_rate)
    n, d, loss = runs[parameters], runs["tokens"], runs.loss(modality)
    found = Points(n, d, loss, runs.get("training_flops"), runs.get("unique_tokens"))
    ids = list(runs["run_id"])
    _check_enough("runs", {parameters: n, "tokens": d})
    _check_compute(found, ids)
    _check_losses(loss, ids, n, d, unique=found.unique_tokens)
    return found, runs, failed


def mixtures(
    runs: Runs,
    modalities: tuple[str, str],
    parameters: str,
    drop_failed: bool,
    best_learning_rate: bool,
) -> tuple[Runs, list[str]]:
    """The runs of one system that saw both of two modalities, as fit for the bimodal law.

    Args:
      runs: each says what it saw of both, as `known_shares` makes sure.

    Returns:
      The runs, and the ids of those left out as failed.

    Raises:
      UserError: for whatever would spoil a fit.
    """
    seen = [f"tokens_{name}" for name in modalities]
    runs = runs.where((runs[seen[0]] > 0) & (runs[seen[1]] > 0))
    runs, failed = _usable(runs, modalities, parameters, drop_failed, best_learning_rate, seen)
    n, first, second = (runs[name] for name in (parameters, *seen))
    where = f"runs on both of {list(modalities)}"
    _check_enough(where, {parameters: n, "tokens of both": first + second})
    mean = (runs.loss(modalities[0]) + runs.loss(modalities[1])) / 2
    ids, unique = list(runs["run_id"]), runs.get("unique_tokens")
    _check_losses(mean, ids, n, first, second, unique=unique)
    return runs, failed


def known_shares(
    runs: Runs, modalities: tuple[str, str], drop_failed: bool
) -> tuple[Runs, list[str]]:
    """The runs that say what they saw of two modalities, and the ids of those left out as failed.

    Raises:
      UserError: if a run that is not left out does not say it in numbers, or an id stands twice.
    """
    _check_ids(runs)
    for name in modalities:
        if f"tokens_{name}" not in runs:
            raise UserError(
                "bimodal law", f"no column tokens_{name}",
                f"the tokens of documents that teach {name!r}, in every row", "Add it.",
            )  # fmt: skip
    unknown = np.zeros(len(runs), bool)
    for name in modalities:
        seen = runs[f"tokens_{name}"]
        unknown |= ~(np.isfinite(seen) & (seen >= 0) & (seen <= 1.001 * runs["tokens"]))
    failed = unknown & (runs["state"] != "done") if "state" in runs else np.zeros_like(unknown)
    left_out = failed if drop_failed else np.zeros_like(unknown)
    if (unknown & ~left_out).any():
        raise UserError(
            f"columns {', '.join(f'tokens_{name}' for name in modalities)}",
            f"nothing, or no part of the tokens, in {names(runs['run_id'], unknown & ~left_out)}",
            "a number in every row, 0 where nothing was seen, at most the tokens of all kinds",
            "Correct the table; --drop-failed leaves out runs that are not done.",
        )
    return runs.where(~left_out), [str(i) for i in runs["run_id"][left_out]]


def _usable(
    runs: Runs,
    modalities: Sequence[str],
    parameters: str,
    drop_failed: bool,
    best_learning_rate: bool,
    also: Sequence[str] = (),
) -> tuple[Runs, list[str]]:
    """Runs that ended well, with sane counts (in the columns `also`, too) and one learning rate."""
    for modality in modalities:
        if modality not in runs.losses:
            raise UserError(
                f"loss {modality!r}", f"losses of {list(runs.losses)}", "one of them", "Correct it."
            )
    if parameters not in runs or runs[parameters].dtype == object:
        numbers = [name for name, column in runs.columns.items() if column.dtype != object]
        raise UserError(
            f"parameters column {parameters!r}", f"columns of numbers {numbers}", "one of them",
            "Choose another with --parameters.",
        )  # fmt: skip
    _check_ids(runs)
    runs, failed = _without_failed(runs, modalities, drop_failed)
    _check_copies(runs)
    for name in (parameters, "tokens", "training_flops", "unique_tokens", *also):
        if name in runs:
            _check_counts(runs, name)
    _check_unique(runs)
    loss = np.mean([runs.loss(modality) for modality in modalities], axis=0)
    names = ("tokens", parameters, "unique_tokens", "size", *also)
    settings = [runs[name] for name in names if name in runs]
    return _one_learning_rate(runs, loss, settings, best_learning_rate, bool(failed)), failed


def _check_ids(runs: Runs) -> None:
    ids = [str(i).strip() for i in runs["run_id"]]
    if "None" in ids or "" in ids:
        raise UserError(
            "run_id", "rows without an id", "one in every row", "The table may be half-written."
        )
    twice = [i for i, times in collections.Counter(ids).items() if times > 1]
    if twice:
        raise UserError(
            "run_id", f"ids that stand twice: {', '.join(twice[:5])}", "an id for each run",
            "Remove the rows that are not meant.",
        )  # fmt: skip


def _check_copies(runs: Runs) -> None:
    """Of runs that ended: two that did not may well say the same of themselves.

    Losses of two or three decimals are those of several seeds as well as of one.
    """
    losses = np.concatenate([column for n, column in runs.columns.items() if n.endswith(UNIT)])
    losses = losses[np.isfinite(losses)]
    if np.allclose(losses, np.round(losses, 3), rtol=0, atol=1e-9):
        return
    same = [n for n in (*TEXT[1:], *NUMBERS) if n in runs]
    same += [n for n in runs.columns if n.startswith("tokens_") or n.endswith(UNIT)]
    first: dict[tuple, str] = {}
    for i, name in enumerate(runs["run_id"]):
        other = first.setdefault(tuple(str(runs[n][i]) for n in same), name)
        if other != name:
            raise UserError(
                "run_id", f"{name} and {other}, equal in all but their ids", "each run once",
                "Remove the row that is a copy; a run counted twice makes intervals too narrow.",
            )  # fmt: skip


def _check_unique(runs: Runs) -> None:
    if "unique_tokens" in runs:
        above = runs["unique_tokens"] > 1.01 * runs["tokens"]
        if above.any():
            raise UserError(
                "column unique_tokens", f"more than tokens in {names(runs['run_id'], above)}",
                "the different ones among the tokens that the run saw", "Correct it.",
            )  # fmt: skip


def _without_failed(runs: Runs, modalities: Sequence[str], drop: bool) -> tuple[Runs, list[str]]:
    failed = ~np.isfinite([runs.loss(modality) for modality in modalities]).all(axis=0)
    if "state" in runs:
        unknown = sorted({str(s) for s in runs["state"]} - set(STATES))
        if unknown:
            raise UserError("state", f"{unknown}", f"one of {list(STATES)}", "Correct the table.")
        failed |= runs["state"] != "done"
    if failed.any() and not drop:
        raise UserError(
            f"loss {' and '.join(map(repr, modalities))}",
            f"runs that diverged or are not done: {names(runs['run_id'], failed)}",
            "a finite loss of a run that ended",
            "Finish or repeat them, or add --drop-failed to leave them out.",
        )
    return runs.where(~failed), [str(i) for i in runs["run_id"][failed]]


def _check_counts(runs: Runs, name: str) -> None:
    values, ids = runs[name], runs["run_id"]
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise UserError(
            f"column {name}", f"no positive number in {names(ids, bad)}", "one in every row",
            "Fill it in; the table may be half-written.",
        )  # fmt: skip
    small = values < SMALLEST
    if small.any():
        raise UserError(
            f"column {name}",
            f"values down to {values.min():g}, in {names(ids, small)}",
            f"counts, of at least {SMALLEST}",
            "Multiply out millions or billions.",
        )
    # Pools of any sizes are right where no run saw its own so often as one in other units would.
    plausible = name == "unique_tokens" and (runs["tokens"] / values).max() < GAP
    ordered = np.sort(np.log(values))
    leap = len(ordered) > 1 and np.diff(ordered).max() > np.log(GAP)
    if leap and not plausible and name != "training_flops":
        low = np.log(values) <= ordered[np.argmax(np.diff(ordered))]
        few, side = (low, "above") if low.sum() <= len(low) / 2 else (~low, "below")
        raise UserError(
            f"column {name}",
            f"a leap of {np.exp(np.diff(ordered).max()):.0f} times between neighbouring values, "
            f"{side} {names(ids, few)}",
            "one unit in the whole column",
            "Look for millions beside plain counts.",
        )


def _one_learning_rate(
    runs: Runs, loss: np.ndarray, settings: Sequence[np.ndarray], best: bool, lost: bool
) -> Runs:
    """The runs of one rate for each setting: a combination of what stands in `settings`.

    Args:
      lost: runs that failed were left out. The seeds of a rate that survived are no fair sample of
        it: then only rates of as many runs as the fullest one are compared.
    """
    if "learning_rate" not in runs:
        return runs
    unknown = np.isnan(runs["learning_rate"])
    if unknown.any() and not unknown.all():
        raise UserError(
            "column learning_rate", f"no number in {names(runs['run_id'], unknown)}",
            "one in every row, or no such column", "Fill it in.",
        )  # fmt: skip
    keep = np.ones(len(runs), bool)
    for here in by_setting(settings):
        rates = np.unique(runs["learning_rate"][here])
        if len(rates) < 2:
            continue
        if not best:
            raise UserError(
                "learning_rate",
                f"{len(rates)} rates of one setting, in {names(runs['run_id'][here], here >= 0)}",
                "one for each size and number of tokens",
                "Add --best-learning-rate to keep the one with the least loss.",
            )
        rate = runs["learning_rate"][here]
        of = {r: loss[here][rate == r] for r in rates}
        fullest = max(map(len, of.values()))
        fair = {r: x.mean() for r, x in of.items() if not lost or len(x) == fullest}
        keep[here] = rate == min(fair, key=fair.get)
    return runs.where(keep)


def by_setting(columns: Sequence[np.ndarray]) -> list[Int[np.ndarray, "m"]]:
    """The rows of each combination of values."""
    rows = collections.defaultdict(list)
    for i, setting in enumerate(zip(*columns)):
        rows[setting].append(i)
    return [np.array(found) for found in rows.values()]


def _check_enough(where: str, columns: dict[str, np.ndarray]) -> None:
    count = len(next(iter(columns.values())))
    if count < FEWEST:
        raise UserError(
            where, f"{count} to fit", f"at least {FEWEST}", "Add runs; nothing was fitted."
        )
    for name, values in columns.items():
        if len(np.unique(values)) < 2:
            raise UserError(
                f"column {name}", f"{values[0]:g} in every row", "several values",
                "A law needs runs of several sizes and lengths; nothing was fitted.",
            )  # fmt: skip


def _check_compute(found: Points, ids: list[str]) -> None:
    ratio = found.compute / (6 * found.parameters * found.tokens)
    around = _around(np.log(found.parameters), ratio)
    away = np.abs(np.log(ratio / around))
    if away.max() > np.log(APART):
        worst = np.argmax(away)
        raise UserError(
            "columns training_flops, parameters, tokens",
            f"compute over 6 N D of {ratio[worst]:.3g} where runs of about the same size have "
            f"{around[worst]:.3g}, in {names(ids, away > np.log(APART))}",
            "one unit in each column",
            "Look for thousands, millions or petaFLOPs beside plain counts in these rows.",
        )
    _check_sizes(found, ids)
    if not COMPUTE[0] < np.median(ratio) < COMPUTE[1]:
        raise UserError(
            "columns training_flops, parameters, tokens",
            f"compute over 6 N D of {np.median(ratio):.3g} in the middle",
            "about 1",
            "Look for a column in other units.",
        )


def _around(size: Float[np.ndarray, "n"], value: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The median of each run's nearest in size, itself among them."""
    order = np.argsort(size, kind="stable")
    sorted_size = size[order]
    most = min(NEAREST, len(size))
    # The nearest of a sorted list are neighbours: a window of those that hold the run.
    windows = np.arange(len(size))[:, None] + np.arange(1 - most, 1)
    valid = (windows >= 0) & (windows + most <= len(size))
    first = np.where(valid, windows, 0)
    apart = np.abs(sorted_size[first[..., None] + np.arange(most)] - sorted_size[:, None, None])
    best = np.argmin(np.where(valid, apart.sum(axis=2), np.inf), axis=1)
    start = first[np.arange(len(size)), best]
    found = np.empty(len(size))
    found[order] = np.median(value[order][start[:, None] + np.arange(most)], axis=1)
    return found


def _check_sizes(found: Points, ids: list[str]) -> None:
    """Against each other: a token costs more at a larger size, about in proportion to N.

    Heads and attention, whose share falls with size, make it less than in proportion.
    """
    size = clusters(np.log(found.parameters), ONE_SIZE)
    of_size = lambda x: np.array([np.median(x[size == s]) for s in range(size.max() + 1)])  # noqa: E731
    cost = np.log(of_size(found.compute / found.tokens))
    ratio = np.log(of_size(found.compute / (6 * found.parameters * found.tokens)))
    leap = (np.diff(cost) < -np.log(LEAPS[0])) | (np.diff(ratio) > np.log(LEAPS[1]))
    if not leap.any():
        return
    # Sizes between two leaps agree. The most of them are right; of as many, those nearer to 6 N D.
    part = np.concatenate([[0], np.cumsum(leap)])
    of_part = np.array([np.median(ratio[part == i]) for i in range(part.max() + 1)])
    right = max(range(len(of_part)), key=lambda i: (np.sum(part == i), -abs(of_part[i])))
    odd = np.argmax(np.abs(of_part - of_part[right]))
    raise UserError(
        "columns training_flops, parameters, tokens",
        f"compute over 6 N D of {np.exp(of_part[odd]):.3g} at some sizes and of "
        f"{np.exp(of_part[right]):.3g} at others, in {names(ids, part[size] == odd)}",
        f"compute of a token that never falls by over {LEAPS[0]:g} times from a size to the next "
        f"larger one, nor rises by over {LEAPS[1]:g} times more than N",
        "Look for thousands, millions or petaFLOPs beside plain counts in all runs of these sizes.",
    )


def _check_losses(
    loss: np.ndarray,
    ids: list[str],
    parameters: np.ndarray,
    *tokens: np.ndarray,
    unique: np.ndarray | None,
) -> None:
    """Against each other: no loss falls faster than in proportion to each of the counts.

    A run of as many tokens, more of them different, may be better: what counts of tokens is the
    larger factor of the two. A run that is far better than most of the others allow is in other
    units; one that is worse than a smaller one may be right (`contradictions`).
    """
    odd = (loss <= 0) | (loss > 30)
    if odd.any():
        raise UserError(
            "losses", f"{loss[odd][0]:g} in {names(ids, odd)}", "nats per token, 0 to 30",
            "Convert them.",
        )  # fmt: skip
    contradicted = np.zeros(len(loss), int)
    for first in range(0, len(loss), ROWS):
        here = slice(first, first + ROWS)
        factor = lambda count: np.maximum(count[here, None] / count, 1)  # noqa: E731, B023
        different = 1.0 if unique is None else factor(unique)
        more = factor(parameters)
        for t in tokens:
            more = more * np.maximum(factor(t), different)
        contradicted[here] = (loss > BETTER * loss[here, None] * more).sum(axis=1)
    better = contradicted > (len(loss) - 1) / 2
    if better.any():
        raise UserError(
            "losses",
            f"runs far better than the others allow: {names(ids, better)}",
            "a loss that falls no faster than in proportion to parameters and to tokens",
            "Look at their loss, and for parameters or tokens in other units.",
        )


def doubts_of_compute(found: Points) -> list[Doubt]:
    """Of the column training_flops."""
    ratio = np.median(found.compute / (6 * found.parameters * found.tokens))
    if 1 / TIMES_6ND < ratio < TIMES_6ND:
        return []
    return [
        Doubt(
            f"compute is {ratio:.3g} times 6 N D in the middle: heads, attention and what is not "
            "in N must account for that, or a column is in other units",
            ("units",),
        )
    ]
