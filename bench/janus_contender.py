"""A contender is a process of its own that does one task at a time, when it is asked."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Contender:
    """The asking side.

    Args:
      module: run with `python -m`; it calls `serve`.
      *arguments: of its command line.
    """

    def __init__(self, module: str, *arguments: str):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Does a task; raises RuntimeError if the process ends instead of answering."""
        print(json.dumps({"task": task, **arguments}), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"{self._process.args}: status {self._process.wait()} at {task!r}")
        return json.loads(reply)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()


def serve(tasks: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """The answering side: until its input ends. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        reply = tasks[request.pop("task")](**request)
        print(json.dumps(reply), file=replies, flush=True)


def steps_of(step: Callable[[Any], float], batches: Iterator[Any]) -> Callable[..., dict[str, Any]]:
    """A task: so many steps, each on the next batch. Batches are at hand before the clock starts.

    Args:
      step: returns the loss before its update.
    """

    def steps(count: int) -> dict[str, Any]:
        taken = list(itertools.islice(batches, count))
        began = time.perf_counter()
        losses = [step(batch) for batch in taken]
        return {"seconds": time.perf_counter() - began, "losses": losses}

    return steps


def telling(steps: Callable[..., dict[str, Any]], told: list[dict[str, float]]) -> Callable:
    """That task, whose replies have means over their steps of what was appended to `told`."""

    def task(count: int) -> dict[str, Any]:
        told.clear()
        reply = steps(count)
        return reply | {name: sum(of[name] for of in told) / count for name in told[0]}

    return task
