"""PyTorch modules with random weights, and their weights through a table in either direction."""

import jax
import numpy as np
import torch

from unijax.core import tree
from unijax.interop.table import Table, TensorInfo, check_coverage, foreign_tensors, read_leaf


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter unlike its neighbours and its default; activations of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1 and not name.endswith(("embed", "token", "embedding")):
                p.copy_(noise * p[0].numel() ** -0.5)
            else:
                scale = ("norm" in name or ".ln" in name) and name.endswith("weight")
                p.copy_(0.2 * noise + scale)
    return model.eval()


class StateDict:
    """A source (`interop.table.Source`) of tensors in memory."""

    where = "memory"

    def __init__(self, state):
        self.arrays = {
            n: np.asarray(t.detach() if hasattr(t, "detach") else t) for n, t in state.items()
        }
        self.tensors = {n: TensorInfo(a.shape, a.dtype) for n, a in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def shapes_of(params) -> dict[str, tuple[int, ...]]:
    return {path: x.shape for path, x in tree.flatten(params).items()}


def through(table: Table, state, shapes) -> dict:
    """Our nested parameters, from a state dict; every tensor of both sides is held to the table."""
    source = StateDict(state)
    check_coverage(table, shapes, source, "")
    return tree.unflatten({p: read_leaf(table, source, p, s) for p, s in shapes.items()})


def back(table: Table, params) -> dict[str, np.ndarray]:
    """The foreign tensors of our parameters."""
    flat = tree.flatten(jax.device_get(params))
    return {
        name: x
        for entry in table.entries
        for name, x in foreign_tensors(entry, [flat[path] for path in entry.ours])
    }


def distance(ours, theirs) -> float:
    """The largest difference, of the largest magnitude."""
    theirs = np.asarray(theirs)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
