"""Whether a run may go on from a checkpoint: the same system, size and parts that train."""

import contextlib
import json
import os
from typing import Any

from unijax.core.errors import UserError
from unijax.train.checkpoint import read_run, whole_steps

# What the state on disk is made of. All else of a config may change between two parts of a run.
FIXED = (
    "system", "model", "stage.rules", "stage.lora", "stage.ema_decay", "loop.save_frozen",
)  # fmt: skip
# Of the data, what the rows do not hang on.
FREE_OF_DATA = (
    "data.prefetch", "data.decode_threads", "data.max_pixels", "data.may_change",
)  # fmt: skip
OPTIMIZERS = "stage.optimizers."
# The state of every optimizer before checkpoints said which it is (`train.kinds.VERSIONS`).
FIRST = "adamw 1"


def check_stage(run_dir: str | os.PathLike, stage: str) -> None:
    """Raises a UserError where there are checkpoints of another stage, before anything is written.

    What is wrong with checkpoints themselves is found when they are restored.
    """
    saved = None
    with contextlib.suppress(UserError):
        saved = read_run(run_dir) if whole_steps(run_dir) else None
    if saved is not None:
        _same_stage(os.fspath(run_dir), saved["stage"], stage)


def _same_stage(where: str, saved: str, now: str) -> None:
    if saved != now:
        raise UserError(
            where,
            f"checkpoints of stage {saved!r}",
            f"a new directory, or checkpoints of stage {now!r}",
            "Give every stage a --run-dir of its own and start from the last with --init-from.",
        )


def check_resumable(where: str, saved: dict, now: dict) -> dict[str, tuple[Any, Any]]:
    """Compares the run of a checkpoint with the one that asks to go on.

    Args:
      where: the run directory.
      saved, now: JSON descriptions: `stage`, the name, `config`, resolved, and `optimizers`, the
        versions of their state by name.

    Returns:
      What changed, though it may: {key: (saved, now)}.

    Raises:
      UserError: for another stage, or another value of what the state is made of.
    """
    _same_stage(where, saved["stage"], now["stage"])
    before, after = (_flat(json.loads(json.dumps(run["config"]))) for run in (saved, now))
    # Of another system first: the rest follows from it.
    keys = sorted(before.keys() | after.keys(), key=lambda key: (key != "system", key))
    changed = [k for k in keys if before.get(k) != after.get(k)]
    # A place in the data that an older form saved does not say of which data it is.
    data_is_fixed = (saved.get("data") or {}).get("fingerprint", "") is None
    for key in changed:
        of_data = data_is_fixed and key.startswith("data.") and key not in FREE_OF_DATA
        if of_data or _fixed(key, before, after):
            raise UserError(
                where,
                f"checkpoints of a run with {_told(key, before)}",
                f"{_told(key, after)}, as this run has it",
                "Resume with the config that wrote them, or give this run a --run-dir of its own "
                "(--init-from starts it from those parameters).",
            )
    versions = saved.get("optimizers", {})
    for name, version in now["optimizers"].items():
        if (found := versions.get(name, FIRST)) != version:
            raise UserError(
                where,
                f"the state {found!r} of the optimizer {name!r}",
                repr(version),
                "Resume with the release of unijax that wrote it, or start from its parameters "
                "with --init-from and another --run-dir.",
            )
    return {key: (before.get(key), after.get(key)) for key in changed}


def _told(key: str, values: dict[str, Any]) -> str:
    """What came after a run, or has its default, may not be on record."""
    return f"{key}={values[key]!r}" if key in values else f"no {key}"


def _fixed(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    old, new = before.get(key), after.get(key)
    if key == "stage.ema_decay":
        return not old or not new
    if key.startswith(OPTIMIZERS):
        name, _, field = key.removeprefix(OPTIMIZERS).partition(".")
        start = f"{OPTIMIZERS}{name}."
        if not all(any(k.startswith(start) for k in values) for values in (before, after)):
            return True  # an optimizer that the other run does not have
        if field == "b1":
            # Without momentum, or with it, the state has another form; likewise of weight decay.
            return after.get(f"{start}kind") in ("sgd", "adafactor") and (not old or not new)
        return field == "kind" or (field == "weight_decay" and (not old or not new))
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested JSON by dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for name, x in items:
        path = f"{prefix}.{name}" if prefix else str(name)
        found |= _flat(x, path) if isinstance(x, (dict, list)) else {path: x}
    return found
