"""What libraries say of their own accord, and this project says where a user must know it."""

import logging
import sys
import warnings
from typing import Any

# Orbax and absl narrate every save, asyncio every failed write of one, gcsfs every call that it
# makes again.
for _name in ("absl", "asyncio", "gcsfs"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
# Of a save that failed, and was told.
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _unraisable(what: Any) -> None:
    """Tensorstore calls back to a loop that is closed, of a save that failed and was told."""
    if str(what.exc_value) != "Event loop is closed":
        _others(what)


_others = sys.unraisablehook
sys.unraisablehook = _unraisable
