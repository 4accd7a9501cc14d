"""Rows that are half empty or teach nothing, slots that no source fills, and documents that no row
can hold: told while a run trains."""

import math
import sys
from collections.abc import Iterable, Mapping

from tqdm import tqdm

from unijax.core.stream import Layout
from unijax.data.config import DataConfig, SourceConfig
from unijax.data.tasks import may_show
from unijax.data.tokenizer import Tokenizer
from unijax.main.checking import filling
from unijax.train.writers import Writer

MOST = 0.2  # padding of a step that is told
_FULL = 0.9  # share of the image slots of a row: more, and they end rows


class RowsTold(Writer):
    """A writer (`train.writers`) that says once why steps are mostly padding, miss documents, or
    teach nothing."""

    def __init__(self, data: DataConfig, layout: Layout, tokenizer: Tokenizer):
        self._of = data, layout, tokenizer
        self._told, self._left_out, self._taught = False, False, False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        padding = values.get("data/padding_share", 0.0)
        if padding > MOST and not self._told:
            tqdm.write(f"step {step}: {padding:.0%} padding. {advice(*self._of)}", file=sys.stderr)
            self._told = True
        if values.get("data/documents_left_out", 0.0) > 0 and not self._left_out:
            limit = f"{self._of[0].row_length} tokens, images {self._of[0].slots}"
            line = f"step {step}: documents are left out that no row can hold ({limit})"
            tqdm.write(f"{line}; `unijax show` tells how many", file=sys.stderr)
            self._left_out = True
        gradients = [x for name, x in values.items() if name.startswith("grad_norm/")]
        if gradients and not any(gradients) and not self._taught:
            line = f"step {step}: no gradient has reached what trains: these data teach it nothing."
            tqdm.write(f"{line} Look at data.groups and stage.rules", file=sys.stderr)
        self._taught |= bool(gradients)


def idle_slots(
    data: DataConfig, held_out: Iterable[SourceConfig], layout: Layout
) -> dict[str, int]:
    """Image slots that no source of the run can fill, by array: every step works them all the same,
    encoders included."""
    tasks = {source.task for source in (*data.sources, *held_out)}
    shown = {s.slots for s in layout.streams if any(may_show(task, s.role) for task in tasks)}
    return {name: count for name, count in data.slots.items() if count and name not in shown}


def advice(data: DataConfig, layout: Layout, tokenizer: Tokenizer) -> str:
    """What fills rows better."""
    found = filling(data, layout, tokenizer)
    full = [name for name, share in found.slots.items() if share > _FULL]
    if full:
        wanted = {n: math.ceil(data.slots[n] / max(1 - found.padding, 0.05)) for n in full}
        sets = " ".join(f"data.slots.{name}={count}" for name, count in wanted.items())
        shorter = max(256, 64 * math.ceil(data.row_length * (1 - found.padding) / 64))
        return f"Rows end where their image slots do: set {sets}, or data.row_length={shorter}"
    most = max(int(lengths.max()) for lengths in found.lengths.values())
    return (
        f"Documents of up to {most} tokens leave gaps in rows of {data.row_length}: set another "
        f"data.row_length, or data.open_rows above {data.open_rows}"
    )
