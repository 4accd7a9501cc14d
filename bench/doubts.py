"""Whether doubts are said where they should be, and only there: `python -m bench.doubts`.

Synthetic studies of a known law (`bench/doubts_studies.py`): clean ones, and ones with one of ten
mistakes. Of these count those that move the loss predicted at ten times the compute by more than
5%. The columns can show a mistake if the runs lie off the law more than the same runs without it do
(an F test at 1e-4). Then a doubt has to name the right cause; where they cannot show it, the report
has to say which column would.

`--set scoring` (laws, designs, noise and seeds that the detectors were not written against) is the
table of docs/scaling.md; about half an hour of one core.
"""

import argparse
import dataclasses

import numpy as np
from scipy import stats
from tqdm import tqdm

from bench.doubts_studies import MISTAKES, Study, clean
from unijax.core.errors import UserError
from unijax.scaling.doubt import Doubt
from unijax.scaling.doubts import doubts
from unijax.scaling.fit import Fit, fit
from unijax.scaling.frontier import losses, of_law
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.table import Runs
from unijax.scaling.unseen import unseen
from unijax.scaling.validate import points as validated

MOVES = 0.05  # of the log of the loss predicted
SHOWS = 1e-4  # level of the test whether columns can show a mistake
TRIES = 40  # of a seed, to find a mistake that moves the prediction
WOULD_TELL = {
    "rates": "column learning_rate", "repeated": "column unique_tokens", "decay": "column state",
    "tokenizer": "a column that names it", "version": "a column that names it",
}  # fmt: skip
REFUSED = {"units": "unit", "copied": "equal in all but", "mislabelled": "unit"}


@dataclasses.dataclass
class Outcome:
    """Of one study: whether columns can show the mistake, what was said, and whether rightly."""

    shows: bool
    said: bool
    right: bool
    first: bool
    causes: int
    told: bool


def of(study: Study) -> Points:
    return Points(study.n, study.d, study.loss)


def fitted(points: Points) -> Fit:
    return fit(Chinchilla.of(points), points, Objective())


def prediction(found: Fit, flops: float) -> float:
    """The log of the loss at the optimum of a budget C = 6 N D."""
    line = of_law(found.law, found.theta, np.empty((0, 5)), SIX).optimal_parameters(
        np.array([flops])
    )
    return float(
        np.log(losses(found.law, found.theta[None], line[None], flops / 6 / line[None])[0, 0])
    )


SIX = Points(np.array([1e7, 1e9]), np.array([1e9, 1e10]), np.array([3.0, 2.5]))  # C is 6 N D


def squares(points: Points) -> float:
    """What least squares leave."""
    found = fit(Chinchilla.of(points), points, Objective(np.inf))
    return 2 * found.value


def corrupted(kind: str, seed: int, scoring: bool) -> tuple[Study, bool] | None:
    """A study whose mistake moves the prediction, and whether its columns can show that."""
    for attempt in range(TRIES):
        rng = np.random.default_rng([SETS[scoring], sorted(MISTAKES).index(kind), seed, attempt])
        study = clean(rng, scoring)
        before = of(study)
        MISTAKES[kind](rng, study, scoring)
        study.kind, after = kind, of(study)
        flops = 10 * before.compute.max()
        if abs(prediction(fitted(after), flops) - prediction(fitted(before), flops)) > MOVES:
            right, wrong = squares(before), squares(after)
            left = len(before) - 5
            f = (wrong - right) / 2 / (right / left)
            return study, bool(stats.f.sf(f, 2, left) < SHOWS)
    return None


def said_of(study: Study) -> tuple[list[Doubt], list[str]]:
    """What a fit of the table says: doubts, and what it cannot exclude."""
    runs = Runs(study.columns)
    try:
        points, rows, _ = validated(runs, "text", "parameters", False, False)
    except UserError as error:
        causes = tuple(k for k, words in REFUSED.items() if words in str(error))
        return [Doubt(str(error), causes)], []
    found = fitted(points)
    return doubts(found, points, rows, np.zeros(0)), unseen(points, rows)


def outcome(study: Study, shows: bool) -> Outcome:
    found, open_ = said_of(study)
    causes = list(dict.fromkeys(c for d in found for c in d.causes))
    right = any(c in study.causes for c in causes)
    words = [WOULD_TELL[c] for c in study.causes if c in WOULD_TELL]
    told = any(w in line for w in words for line in open_)
    first = bool(causes) and causes[0] in study.causes
    return Outcome(shows, bool(found), right, first, len(causes), told)


def interval(hits: int, count: int) -> str:
    """Of a share, at 95% (Clopper and Pearson)."""
    if not count:
        return "-"
    low = stats.beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    return f"{hits}/{count} = {hits / count:.2f} [{low:.2f}, {high:.2f}]"


SETS = {False: 1, True: 20_001}  # of seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=("development", "scoring"), default="scoring")
    parser.add_argument("--studies", type=int, default=40, help="of each mistake")
    parser.add_argument("--clean", type=int, default=200)
    parser.add_argument("--kinds", nargs="*", default=sorted(MISTAKES))
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--verbose", action="store_true", help="what was missed")
    args = parser.parse_args()
    scoring = args.set == "scoring"
    doubted = 0
    for seed in tqdm(range(args.first, args.first + args.clean), desc="clean", leave=False):
        study = clean(np.random.default_rng([SETS[scoring], 99, seed]), scoring)
        found, _ = said_of(study)
        doubted += bool(found)
        if found and args.verbose:
            print(
                "clean", seed, len(study.n), [(d.causes, d.text[:150]) for d in found], flush=True
            )
    print(f"clean studies with a doubt: {interval(doubted, args.clean)}", flush=True)
    print(
        "mistake | can be shown, and named rightly | first | causes named | cannot, and told | "
        "no doubt at all"
    )
    totals = []
    for kind in args.kinds:
        outcomes = []
        for seed in tqdm(range(args.first, args.first + args.studies), desc=kind, leave=False):
            made = corrupted(kind, seed, scoring)
            if made is None:
                continue
            one = outcome(*made)
            outcomes.append(one)
            if args.verbose and not (one.right if one.shows else one.told):
                print(
                    "  missed",
                    kind,
                    seed,
                    one,
                    [(d.causes, d.text[:120]) for d in said_of(made[0])[0]],
                    flush=True,
                )
        print(f"{kind} | " + row(outcomes), flush=True)
        totals += outcomes
    print("all | " + row(totals))


def row(outcomes: list[Outcome]) -> str:
    shown = [o for o in outcomes if o.shows]
    hidden = [o for o in outcomes if not o.shows]
    named = [o.causes for o in shown if o.right]
    return " | ".join(
        [
            interval(sum(o.right for o in shown), len(shown)),
            f"{sum(o.first for o in shown)}/{len(shown)}",
            f"{np.mean(named):.1f}" if named else "-",
            f"{sum(o.told or o.right for o in hidden)}/{len(hidden)}",
            f"{sum(not o.said for o in shown)}",
        ]
    )


if __name__ == "__main__":
    main()
