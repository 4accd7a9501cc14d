"""What is said once on stderr while a run goes on."""

import sys

import jax
from tqdm import tqdm

from unijax.core.processes import is_lead

_told: set[str] = set()


def tell_once(about: str, line: str) -> None:
    """Says a line on stderr, unless one about the same was said; of several processes, the lead.

    JAX is not started for it: a program that only looks at data leaves the devices alone.
    """
    if about not in _told and not (jax.distributed.is_initialized() and not is_lead()):
        tqdm.write(line, file=sys.stderr)  # above a bar, where there is one
    _told.add(about)
