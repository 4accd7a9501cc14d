"""Whether a run may go on from a checkpoint: the same system, size and parts that train."""

import json
from typing import Any

from unijax.core.errors import UserError

# What the state on disk is made of. All else of a config may change between two parts of a run.
FIXED = ("system", "model", "stage.rules", "stage.ema_decay")
# Of the data, what the rows do not hang on.
FREE_OF_DATA = ("data.prefetch", "data.decode_threads", "data.max_pixels")
# Of every optimizer: without weight decay, or with it, the state has another form.
OPTIMIZER = "stage.optimizers"


def check_resumable(where: str, saved: dict, now: dict) -> dict[str, tuple[Any, Any]]:
    """Compares the run of a checkpoint with the one that asks to go on.

    Args:
      where: the run directory.
      saved, now: JSON descriptions: `stage`, the name, and `config`, resolved.

    Returns:
      What changed, though it may: {key: (saved, now)}.

    Raises:
      UserError: for another stage, or another value of what the state is made of.
    """
    if saved["stage"] != now["stage"]:
        raise UserError(
            where,
            f"checkpoints of stage {saved['stage']!r}",
            f"a new directory, or checkpoints of stage {now['stage']!r}",
            "Give every stage a --run-dir of its own and start from the last with --init-from.",
        )
    before, after = (_flat(json.loads(json.dumps(run["config"]))) for run in (saved, now))
    changed = {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
    # A place in the data that an older form saved does not say of which data it is.
    data_is_fixed = (saved.get("data") or {}).get("fingerprint", "") is None
    for key, (old, new) in changed.items():
        of_data = data_is_fixed and key.startswith("data.") and key not in FREE_OF_DATA
        if of_data or _fixed(key, old, new):
            raise UserError(
                where,
                f"checkpoints of a run with {key}={old!r}",
                f"{key}={new!r}, as this run has it",
                "Resume with the config that wrote them, or give this run a --run-dir of its own "
                "(--init-from starts it from those parameters).",
            )
    return changed


def _fixed(key: str, old: Any, new: Any) -> bool:
    if key == "stage.ema_decay":
        return not old or not new
    if key.startswith(f"{OPTIMIZER}."):
        added = old is None or new is None  # an optimizer that the other run does not have
        return added or (key.endswith(".weight_decay") and (not old or not new))
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested JSON by dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for name, x in items:
        path = f"{prefix}.{name}" if prefix else str(name)
        found |= _flat(x, path) if isinstance(x, (dict, list)) else {path: x}
    return found
