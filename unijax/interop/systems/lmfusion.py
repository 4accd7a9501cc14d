"""LMFusion in Transfusion's form, with a group of tensors more: `image_twin`.

Its PyTorch file is Transfusion's, which has twins too.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from unijax.interop import given
from unijax.interop.opening import abstract_params
from unijax.interop.systems.transfusion import forms, llama_part
from unijax.interop.table import Source, Table, TensorInfo
from unijax.systems.lmfusion import LMFusion, LMFusionConfig

_ABOUT = (
    "LMFusion: a language model that draws by layers of its own for images "
    "([2412.15188](https://arxiv.org/abs/2412.15188))."
)
_TWIN = "image_twin"


class _Twice:
    """A source whose tensors the twin has too, under names of its own."""

    def __init__(self, source: Source, twins: Mapping[str, str]):
        self.where, self._source, self._twins = source.where, source, twins
        found = {twin: name for twin, name in twins.items() if name in source.tensors}
        copies = {twin: source.tensors[name] for twin, name in found.items()}
        self.tensors: Mapping[str, TensorInfo] = {**source.tensors, **copies}

    def read(self, name: str) -> np.ndarray:
        return self._source.read(self._twins.get(name, name))


def with_twin(system: str, config: LMFusionConfig, table: Table, source: Source) -> given.Opened:
    """What holds a decoder, and once more what a twin has, which begins as its copy."""
    ours = abstract_params(system, config)
    twins = {
        twin: entry
        for entry in table.entries
        if (twin := entry.ours[0].replace("language_model/", f"{_TWIN}/", 1)) != entry.ours[0]
        and twin in ours
    }
    entries = (
        dataclasses.replace(entry, ours=(twin,), theirs=f"{_TWIN}.{entry.theirs}")
        for twin, entry in twins.items()
    )
    names = {
        f"{_TWIN}.{name}": name
        for entry in twins.values()
        for name in entry.names(config.text.num_hidden_layers)
    }
    both = dataclasses.replace(table, entries=(*table.entries, *entries))
    return both, _Twice(source, names)


def _llama(place: pathlib.Path, config: LMFusionConfig, notes: list[str]) -> given.Opened:
    return with_twin("lmfusion", config, *llama_part(place, config, notes))


INTEROP = forms("lmfusion", LMFusion, LMFusionConfig, _ABOUT, _llama)
