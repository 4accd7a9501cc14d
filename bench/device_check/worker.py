"""One part, in a process of its own: prints a line of JSON for every result.

python -m bench.device_check.worker PART [--small] [--until SECONDS]
"""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from bench.device_check import annotations

PROMPT = "device-check:"  # what a line of results begins with; all else is talk


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a part is given.

    Attributes:
      small: sizes of a rehearsal on CPU.
      until: when the part is ended, on the clock of `time.monotonic`.
      folder: where files may be left.
    """

    small: bool
    until: float
    folder: pathlib.Path

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


def tell(result: dict[str, Any]) -> None:
    """A result, as soon as it is known."""
    print(PROMPT + json.dumps(result), flush=True)


def attempt(name: str, asked: Asked, call: Callable[[], dict | None], needs: float = 10.0) -> None:
    """Tells what `call` gives, or why there is nothing: no time is left, or it failed."""
    if asked.left < needs:
        tell({"name": name, "skipped": f"{asked.left:.0f} s were left"})
        return
    try:
        found = call()
    except Exception as error:  # one result that fails leaves the others
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        tell({"name": name, "failed": f"{type(error).__name__}: {first[:300]}"})
        return
    if found is not None:
        tell(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--until", type=float, default=600.0, help="seconds from now")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".device-check"))
    options = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if options.part in ("kernels", "times"):  # PyTorch needs memory too
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    until = time.monotonic() + options.until
    annotations.ensure()
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(options.folder.absolute() / "compiled"))
    part = importlib.import_module(f"bench.device_check.{options.part}")
    part.run(Asked(options.small, until, options.folder))
    sys.stdout.flush()
    os._exit(0)  # what still compiles is not waited for


if __name__ == "__main__":
    main()
