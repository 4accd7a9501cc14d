"""What a fine-tuning leaves to the checkpoint, the data and the device: chosen once, with reasons.

A config names in `follow` the keys whose values are chosen so where the command line does not say
them. The choice is recorded with the run, and a run that goes on takes it from there.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.core.stream import Layout
from unijax.core.system import init_shapes
from unijax.data.config import DataConfig
from unijax.data.document import document_size
from unijax.data.rows import RowStream
from unijax.data.sources import DocumentSource, open_sources
from unijax.data.tasks import STREAMS
from unijax.data.tokenizer import load as load_tokenizer
from unijax.main.run import RunConfig, make_system, resolve
from unijax.train.checkpoint import read_run, whole_steps
from unijax.train.lora import adapted
from unijax.train.stage import match_rules

_LOOKED_AT = 256  # documents of a source
_ROWS = 64  # that are packed to count their pictures
_SHORTEST = 256  # tokens of a row
_STATE_BYTES = 16  # a parameter that trains: weight, gradient, two moments, in float32
# Of a layer and token, what a backward pass keeps without remat, as multiples of the width; 34
# bytes in half precision (arXiv 2205.05198, section 4.1), scores of attention aside.
_KEPT_BYTES = 34
_ROOM = 0.6  # share of a device's memory that state and activations may take


def chosen(run: RunConfig, run_dir: str | pathlib.Path, given: Sequence[str]) -> RunConfig:
    """The run with the keys of `follow` chosen, those in `given` (`key=value`) left alone.

    What was chosen when the run began is taken again, if there is a checkpoint of it.
    """
    words = {text.partition("=")[0] for text in given}
    for key in run.follow:
        if key not in _CHOICES:
            raise UserError("follow", repr(key), f"some of {(*_CHOICES,)}", "Correct the config.")
    keys = [k for k in run.follow if not any(f"{w}.".startswith(f"{k}.") for w in words)]
    run = dataclasses.replace(run, follow=())
    if not keys:
        return run
    if whole_steps(run_dir):
        saved = read_run(run_dir)["config"]
        return _with(run, {k: _at(saved, k) for k in keys}, saved.get("chosen", ()))
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for key in (k for k in _CHOICES if k in keys):
        value, reason = _CHOICES[key](_with(run, found, ()))
        found[key], reasons[key] = value, reason
    return _with(run, found, tuple(f"{key}={found[key]}: {reasons[key]}" for key in found))


def _with(run: RunConfig, values: dict[str, Any], reasons: Sequence[str]) -> RunConfig:
    whole = to_json(run, whole=True)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = whole
        for name in parents:
            node = node[name]
        node[leaf] = value
    return dataclasses.replace(resolve(whole), chosen=tuple(reasons))


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


def _dtype(run: RunConfig) -> tuple[str, str]:
    if jax.default_backend() == "cpu":
        return "float32", "a CPU has no arithmetic in bfloat16"
    return "bfloat16", f"{jax.devices()[0].device_kind} computes in it"


def _lengths(sources: dict[str, DocumentSource], layout: Layout) -> np.ndarray:
    return np.array([
        document_size(source.document(i), layout).tokens
        for source in sources.values()
        for i in range(min(source.epoch_length, _LOOKED_AT))
    ])  # fmt: skip


def _row_length(run: RunConfig) -> tuple[int, str]:
    """A power of two that holds the longest document, and several of the usual ones."""
    layout = make_system(run).layout
    lengths = _lengths(_sources(run), layout)
    longest, usual = int(lengths.max()), int(np.median(lengths))
    row = max(2 ** math.ceil(math.log2(max(longest, 4 * usual))), _SHORTEST)
    most = run.data.row_length
    told = f"documents have {usual} tokens in the middle and {longest} at most"
    if row > most:
        return most, f"{told}; longer rows than the config's {most} are asked for with the key"
    return row, told


def _slots(run: RunConfig) -> tuple[dict[str, int], str]:
    """As many as rows use that are filled with as many as there is room for."""
    layout = make_system(run).layout
    data = run.data
    room = {
        name: max(1, data.row_length // layout.of_slots(name).length)
        for name in layout.slots
        if data.slots.get(name) and _feeds(data, layout, name)
    }
    stream = RowStream(dataclasses.replace(data, slots=room), layout, _sources(run, room))
    used = dict.fromkeys(layout.slots, 0)
    for _ in range(_ROWS):
        row = [document_size(placed.document, layout).slots for placed in next(stream)]
        for name, count in zip(layout.slots, np.sum(row, axis=0)):
            used[name] = max(used[name], int(count))
    slots = {name: used[name] for name in room}
    return slots, f"the most pictures that {_ROWS} full rows of this data hold"


def _feeds(data: DataConfig, layout: Layout, name: str) -> bool:
    """Whether any source shows or draws pictures of the slots."""
    roles = {stream.role for stream in layout.streams if stream.slots == name}
    return any(STREAMS.get(s.task, "und") in roles or s.task in _BOTH for s in data.sources)


_BOTH = ("draw", "chat", "page")  # pictures of several roles may stand in one document


def _sources(run: RunConfig, slots: dict[str, int] | None = None) -> dict[str, DocumentSource]:
    data = run.data if slots is None else dataclasses.replace(run.data, slots=slots)
    return open_sources(data, make_system(run).layout, load_tokenizer(run.tokenizer))


def _cache_frozen(run: RunConfig) -> tuple[bool, str]:
    """Where pictures are drawn more than once, what a frozen encoder makes of them is kept."""
    system = adapted(make_system(run), run.stage.lora)
    rules = match_rules(run.stage, [*tree.flatten(init_shapes(system))])
    trained = {path.split("/")[0] for path, rule in rules.items() if not rule.frozen}
    if {how.group for how in system.encoded.values()} <= trained:
        return False, "no encoder is frozen"
    records = sum(source.epoch_length for source in _sources(run).values())
    tokens = run.stage.steps * run.data.rows * run.data.row_length
    usual = float(np.mean(_lengths(_sources(run), make_system(run).layout)))
    epochs = tokens / usual / records
    if epochs < 1:
        return False, f"{epochs:.1f} epochs: most pictures are drawn once or never"
    return True, f"{epochs:.1f} epochs: what a frozen encoder makes of a picture is made once"


def _remat(run: RunConfig) -> tuple[str, str]:
    """None where state and activations fit without."""
    text = getattr(run.model, "text", None)
    if text is None:
        return run.remat, "the config's: the system has no decoder of known sizes"
    devices = jax.device_count()
    parameters = sum(x.size for x in jax.tree.leaves(init_shapes(make_system(run))))
    tokens = run.data.rows * run.data.row_length / run.accumulate / devices
    wide = 1 if run.dtype != "float32" else 2
    kept = tokens * text.num_hidden_layers * text.hidden_size * _KEPT_BYTES * wide
    needed = (parameters * _STATE_BYTES / devices + kept) / 2**30
    room = _memory() / 2**30
    if needed < _ROOM * room:
        return "none", f"about {needed:.1f} GiB of {room:.0f} are needed on a device without"
    return "full", f"without, about {needed:.1f} GiB of {room:.0f} would be needed on a device"


def _memory() -> int:
    """Bytes of a device."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# In this order: what is chosen later hangs on what was chosen before.
_CHOICES = {
    "dtype": _dtype,
    "data.row_length": _row_length,
    "data.slots": _slots,
    "cache_frozen": _cache_frozen,
    "remat": _remat,
}
