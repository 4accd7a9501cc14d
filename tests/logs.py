"""The log of a run, without what differs from one time to the next."""

import json
import pathlib

TIMING = ("seconds_per_step", "tokens_per_second", "model_flops_per_second", "machine/")


def everything(run_dir: pathlib.Path) -> list[dict]:
    """Every line of the log."""
    return [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]


def lines(run_dir: pathlib.Path) -> list[dict]:
    """Every line, but for times."""
    return [
        {k: v for k, v in row.items() if not k.startswith(TIMING)} for row in everything(run_dir)
    ]


def events(run_dir: pathlib.Path) -> list[dict]:
    """What went wrong, but for the time."""
    rows = [json.loads(x) for x in (run_dir / "events.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time"} for row in rows]
