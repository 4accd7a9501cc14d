"""What went wrong in a run, and what was done about it: `events.jsonl` in the run directory.

A line is one JSON object: `time` (seconds since 1970), `event`, `step`, `message`, and what is
known. Unlike the log of metrics it is never cut: a step that was undone stays in it.
"""

import contextlib
import json
import pathlib
import sys
import time
from typing import Any

from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import Appended
from unijax.core.processes import is_lead

FILE = "events.jsonl"


class Events:
    """Writes to the file and says it on stderr; process 0 alone. A full disk is no error here."""

    def __init__(self, run_dir: pathlib.Path):
        self._file = Appended(run_dir / FILE)

    def tell(self, event: str, step: int, message: str, **known: Any) -> None:
        """`known` is JSON. What a disk does not take now is written with the next."""
        if not is_lead():
            return
        tqdm.write(f"step {step}: {message}", file=sys.stderr)
        line = {"time": time.time(), "event": event, "step": step, "message": message, **known}
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(line).encode())

    def close(self) -> None:
        with contextlib.suppress(OSError, UserError):
            self._file.close()
