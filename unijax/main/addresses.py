"""Which arguments of which verbs may be addresses of buckets, and how they are read."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from unijax.core import storage
from unijax.core.paths import is_address

_RUN, _FILE = storage.run_here, storage.here


def _data(place: str) -> pathlib.Path:
    from unijax.data.user import here  # and with it the readers of data

    return here(place)


# What is read: a copy on this machine stands for it.
READ: dict[str, dict[str, Callable]] = {
    "train": {"init_from": _RUN},
    "finetune": {"init_from": _RUN, "data": _data, "held_out": _data},
    "check": {"init_from": _RUN, "data": _data},
    "show": {"init_from": _RUN, "data": _data},
    "sample": {"run_dir": _RUN, "prompts": _FILE},
    "ask": {"run_dir": _RUN, "image": _FILE},
    "score": {"run_dir": _RUN, "data": _FILE},
    "export": {"run_dir": _RUN},
    "verify": {"run_dir": _RUN, "export_dir": _FILE},
    "import": {"source": _FILE, "tokenizer": _FILE},
    "fit": {"table": _FILE},
}
# What is written there, or looked at where it is.
THERE = {
    "train": {"run_dir"}, "finetune": {"run_dir"}, "export": {"out"}, "sample": {"out"},
    "status": {"dir"}, "sweep": {"dir"}, "gather": {"dir"},
}  # fmt: skip


def may_be(verb: str, argument: str) -> bool:
    """Whether an argument takes an address."""
    return argument in READ.get(verb, ()) or argument in THERE.get(verb, ())


def fetch(args: argparse.Namespace) -> None:
    """Puts copies on this machine in the place of addresses that are read.

    Raises:
      UserError: where there is nothing, or it cannot be read.
    """
    for name, copy in READ.get(args.verb, {}).items():
        setattr(args, name, _fetched(getattr(args, name), copy))


def _fetched(value: Any, copy: Callable) -> Any:
    if isinstance(value, list):
        return [_fetched(one, copy) for one in value]
    return str(copy(value)) if isinstance(value, str) and is_address(value) else value
