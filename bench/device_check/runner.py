"""Parts as processes with bounds; their results, as they come, in one file.

Imports the standard library alone: the device is the parts'.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque

from bench.device_check.worker import PROMPT

# Seconds of each of 480, in the order in which they are worked.
PARTS = {
    "device": 15.0,  # what is here
    "kernels": 80.0,  # every kernel of attention beside the reference
    "times": 90.0,  # its times beside peers
    "blocks": 55.0,  # sizes of blocks
    "step": 105.0,  # the step of Janus-Pro 1B
    "drawing": 80.0,  # drawing, answering, denoising
    "pieces": 55.0,  # heads, image tokenizers, the optimizer
}
TAIL = 20  # lines of a part's talk that are kept where it fails


def check(
    parts: list[str], out: pathlib.Path, folder: pathlib.Path, seconds: float, small: bool
) -> int:
    """Runs the parts. Returns 0, or 1 where one of them did not end well or a result is wrong.

    A part begins when the one before it has ended, and is ended by force at the sum of the bounds
    up to its own, scaled to `seconds`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    began, well = time.monotonic(), True
    scale = seconds / sum(PARTS[part] for part in parts)
    end = began
    with open(out, "w") as file:

        def keep(result: dict) -> None:
            nonlocal well
            well = well and result.get("ok", True) and "failed" not in result
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(shown(result), flush=True)

        for part in parts:
            end += scale * PARTS[part]
            keep(_run(part, end, folder, small, keep))
    print(f"{time.monotonic() - began:.0f} s; {out}")
    return 0 if well else 1


def command(part: str, seconds: float, folder: pathlib.Path, small: bool) -> list[str]:
    """What runs a part for so long."""
    return [
        sys.executable, "-m", "bench.device_check.worker", part, *(["--small"] if small else []),
        "--until", f"{seconds:.3f}", "--folder", str(folder),
    ]  # fmt: skip


def _run(part: str, end: float, folder: pathlib.Path, small: bool, keep) -> dict:
    """Runs one part, keeps what it tells, and returns how it ended."""
    began = time.monotonic()
    process = subprocess.Popen(
        command(part, end - began, folder, small), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for text in process.stdout:
            lines.put(text)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    talk: deque[str] = deque(maxlen=TAIL)
    ended = "done"
    while True:
        try:
            text = lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            ended = "out of time"
            break
        if text is None:
            break
        if text.startswith(PROMPT):
            keep({"part": part} | json.loads(text.removeprefix(PROMPT)))
        else:
            talk.append(text.rstrip())
    if ended == "done" and process.wait() != 0:
        ended = f"status {process.returncode}"
    _end(process)
    result = {"part": part, "ended": ended, "seconds": round(time.monotonic() - began, 1)}
    if ended == "done":
        return result
    return result | {"failed": ended, "talk": list(talk)}


def _end(process: subprocess.Popen) -> None:
    """With all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def shown(result: dict) -> str:
    """A line for people."""
    words = [str(result.get("part", ""))]
    for key, value in result.items():
        if key not in ("part", "talk"):
            words.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return "  ".join(words) + "".join(f"\n    {text}" for text in result.get("talk", ()))
