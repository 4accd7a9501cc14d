"""Whether doubts are said where they should be, and only there.

`python -m bench.doubts --results FILE`; what is in the file is not done again.

Synthetic studies of a known law (`bench/doubts_studies.py`): clean ones, and ones with one of ten
mistakes. Of these count those that move the loss predicted at ten times the compute by more than
5%. The columns can show a mistake if the runs lie off the law more than the same runs without it do
(an F test at 1e-4). Then a doubt has to name the right cause; where they cannot show it, the report
has to say which column would.

`--set scoring` (laws, designs, noise and seeds that the detectors were not written against) is the
table of docs/scaling.md; about a quarter of an hour of one core.
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np
from jaxtyping import Float
from scipy import stats
from tqdm import tqdm

from bench.doubts_studies import MISTAKES, TYPICAL, Law, Study, clean
from unijax.core.errors import UserError
from unijax.scaling.doubt import Doubt
from unijax.scaling.doubts import doubts
from unijax.scaling.fit import Fit, fit
from unijax.scaling.frontier import losses, of_law
from unijax.scaling.laws import Chinchilla
from unijax.scaling.objective import Objective
from unijax.scaling.points import Points
from unijax.scaling.solver import Solution, minimise
from unijax.scaling.table import Runs
from unijax.scaling.unseen import unseen
from unijax.scaling.validate import points as validated

MOVES = 0.05  # of the log of the loss predicted
SHOWS = 1e-4  # level of the test whether columns can show a mistake
TRIES = 20  # of a seed, to find a mistake that moves the prediction
WOULD_TELL = {
    "rates": "column learning_rate", "repeated": "column unique_tokens", "decay": "column state",
    "tokenizer": "a column that names it", "version": "a column that names it",
}  # fmt: skip
REFUSED = {  # words of what is said
    "unit": "units", "nats per token": "units", "equal in all but": "copied",
}  # fmt: skip


@dataclasses.dataclass
class Outcome:
    """Of one study.

    Attributes:
      kind: the mistake; "clean" for none.
      moves: whether a mistake was found that moves the prediction.
      shows: whether columns can show it.
      said: whether there is a doubt.
      right: whether one names the right cause; first: whether it is the first that is named.
      causes: how many are named.
      told: whether the column that would tell is named.
    """

    kind: str
    seed: int
    moves: bool = True
    shows: bool = False
    said: bool = False
    right: bool = False
    first: bool = False
    causes: int = 0
    told: bool = False


def of(study: Study) -> Points:
    return Points(study.n, study.d, study.loss)


def fitted(points: Points) -> Fit:
    return fit(Chinchilla.of(points), points, Objective())


def near(known: Law, points: Points, objective: Objective) -> tuple[Chinchilla, Solution]:
    """The minimum that the known law leads to."""
    law, x = Chinchilla.of(points), [np.log(t) for t in TYPICAL]
    of_n = np.log(known.of_n) - known.alpha * (law.middle[0] - x[0])
    of_d = np.log(known.of_d) - known.beta * (law.middle[1] - x[1])
    start = np.array([[np.log(known.e), of_n, of_d, known.alpha, known.beta]])
    return law, minimise(law, points, objective, start)


def prediction(law: Chinchilla, theta: Float[np.ndarray, "p"], flops: float) -> float:
    """The log of the loss at the optimum of a budget C = 6 N D."""
    line = of_law(law, theta, np.empty((0, 5)), SIX).optimal_parameters(np.array([flops]))
    return float(np.log(losses(law, theta[None], line[None], flops / 6 / line[None])[0, 0]))


SQUARES = Objective(np.inf)
SIX = Points(np.array([1e7, 1e9]), np.array([1e9, 1e10]), np.array([3.0, 2.5]))  # C is 6 N D


def corrupted(kind: str, seed: int, scoring: bool) -> tuple[Study, bool] | None:
    """A study whose mistake moves the prediction, and whether its columns can show that."""
    for attempt in range(TRIES):
        rng = np.random.default_rng([SETS[scoring], sorted(MISTAKES).index(kind), seed, attempt])
        study = clean(rng, scoring)
        before = of(study)
        MISTAKES[kind](rng, study, scoring)
        after = of(study)
        flops = 10 * before.compute.max()
        law, found = near(study.known, before, Objective())
        right = prediction(law, found.theta[0], flops)
        law, found = near(study.known, after, Objective())
        if abs(prediction(law, found.theta[0], flops) - right) < MOVES / 2:
            continue  # most of some mistakes: spared the search from everywhere
        found = fitted(after)
        if abs(prediction(found.law, found.theta, flops) - right) > MOVES:
            # What least squares leave, each by the law that suits it best.
            without = 2 * near(study.known, before, SQUARES)[1].value[0]
            left, with_it = len(before) - 5, 2 * fit(found.law, after, SQUARES).value
            f = (with_it - without) / 2 / (without / left)
            return study, bool(stats.f.sf(f, 2, left) < SHOWS)
    return None


def said_of(study: Study) -> tuple[list[Doubt], list[str]]:
    """What a fit of the table says: doubts, and what it cannot exclude."""
    runs = Runs(study.columns)
    try:
        points, rows, _ = validated(runs, "text", "parameters", False, False)
    except UserError as error:
        causes = tuple(c for words, c in REFUSED.items() if words in str(error))
        return [Doubt(str(error), causes)], []
    found = fitted(points)
    return doubts(found, points, rows, np.zeros(0)), unseen(points, rows)


def outcome(kind: str, seed: int, scoring: bool) -> Outcome:
    """Makes a study, and fits it."""
    if kind == "clean":
        study = clean(np.random.default_rng([SETS[scoring], 99, seed]), scoring)
        return Outcome(kind, seed, said=bool(said_of(study)[0]))
    made = corrupted(kind, seed, scoring)
    if made is None:
        return Outcome(kind, seed, moves=False)
    study, shows = made
    found, open_ = said_of(study)
    causes = list(dict.fromkeys(c for d in found for c in d.causes))
    words = [WOULD_TELL[c] for c in study.causes if c in WOULD_TELL]
    return Outcome(
        kind,
        seed,
        shows=shows,
        said=bool(found),
        right=any(c in study.causes for c in causes),
        first=bool(causes) and causes[0] in study.causes,
        causes=len(causes),
        told=any(w in line for w in words for line in open_),
    )


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
    parser.add_argument("--kinds", nargs="*", default=["clean", *sorted(MISTAKES)])
    parser.add_argument("--results", type=pathlib.Path, required=True, help="lines of JSON")
    args = parser.parse_args()
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    done = [Outcome(**json.loads(line)) for line in lines]
    there = {(o.kind, o.seed) for o in done}
    many = {k: args.clean if k == "clean" else args.studies for k in args.kinds}
    todo = [(k, seed) for k, count in many.items() for seed in range(count)]
    todo.sort(key=lambda one: one[1] / many[one[0]])  # some of each, wherever it is stopped
    with args.results.open("a") as file:
        for kind, seed in tqdm([x for x in todo if x not in there]):
            done.append(outcome(kind, seed, args.set == "scoring"))
            file.write(json.dumps(dataclasses.asdict(done[-1])) + "\n")
            file.flush()
    print(table(done))


def table(done: list[Outcome]) -> str:
    """In markdown."""
    clean_ones = [o for o in done if o.kind == "clean"]
    lines = [
        "| mistake | can be shown, and named | named first | causes named | cannot, and told |",
        "|---|---|---|---|---|",
    ]
    kinds = sorted({o.kind for o in done} - {"clean"})
    for kind, some in [(k, [o for o in done if o.kind == k]) for k in kinds] + [("all", done)]:
        some = [o for o in some if o.moves and o.kind != "clean"]
        shown, hidden = ([o for o in some if o.shows == can] for can in (True, False))
        named = [o.causes for o in shown if o.right]
        cells = [
            kind,
            interval(sum(o.right for o in shown), len(shown)),
            f"{sum(o.first for o in shown)}/{len(shown)}",
            f"{np.mean(named):.1f}" if named else "-",
            f"{sum(o.told or o.right for o in hidden)}/{len(hidden)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    doubted = interval(sum(o.said for o in clean_ones), len(clean_ones))
    return "\n".join([*lines, "", f"clean studies with a doubt: {doubted}"])


if __name__ == "__main__":
    main()
