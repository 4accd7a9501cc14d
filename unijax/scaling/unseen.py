"""What the columns of a table cannot show, and which column would tell."""

from unijax.scaling.points import Points
from unijax.scaling.table import Runs
from unijax.scaling.validate import by_setting

LOOKS_LIKE = "look like another law"


def unseen(points: Points, runs: Runs) -> list[str]:
    """Mistakes that no fit to these runs can exclude.

    Args:
      runs: the fitted rows, in the order of `points`, with all of their columns.
    """
    found = []
    rates = "learning rates that get worse with size " + LOOKS_LIKE + ", with a smaller alpha"
    if "learning_rate" not in runs:
        found.append(
            f"{rates}: the column learning_rate, with several rates of each size, would tell"
        )
    else:
        found.append(
            f"{rates}, where the rates that a size was not run at are the better ones: rows of the "
            "same size and length at other rates would tell (--best-learning-rate)"
        )
    if "unique_tokens" not in runs:
        found.append(
            f"tokens that are seen again by all of the longer runs {LOOKS_LIKE}, with a smaller "
            "beta and a higher E: the column unique_tokens would tell"
        )
    if "state" not in runs:
        found.append(
            "runs that were cut before their learning rate had decayed, all of a size or length "
            f"alike, {LOOKS_LIKE}: the column state, or one that names the schedule, would tell"
        )
    found.append(
        "a tokenizer, a held-out set or a version of the code that changes smoothly with size or "
        "length, or that all runs share, is not seen: a column that names it would tell (each "
        "value of a column with few is tried as a part)"
    )
    settings = by_setting([points.parameters, points.tokens])
    if len(settings) == len(points):
        found.append(
            "how far seeds scatter: no setting was run twice; rows of the same size and length "
            "with another seed would tell chance from the law's own error"
        )
    return found
