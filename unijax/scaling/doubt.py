"""A reason to distrust a fit, in words."""

import dataclasses

SHOWN = 5  # ids


@dataclasses.dataclass(frozen=True)
class Doubt:
    """What looks wrong.

    Attributes:
      text: for a reader; names the runs.
      causes: keys of `causes.CAUSES` that it names, the likelier first; none where none is known.
      runs: ids.
    """

    text: str
    causes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


def names(ids, mask) -> str:
    """The first few of those that are meant."""
    here = [str(i) for i, meant in zip(ids, mask) if meant]
    more = f" and {len(here) - SHOWN} more" if len(here) > SHOWN else ""
    return ", ".join(here[:SHOWN]) + more
