"""PyTorch's side of a training step, as its user writes it: fused AdamW, gradients clipped."""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.janus_contender import serve


class Training:
    """Optimizer steps of what has gradients in a model."""

    def __init__(self, model: nn.Module):
        self.model = model.train()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
        )

    def step(self, parts: Iterable[Callable[[], Tensor]]) -> float:
        """The loss before the update.

        Args:
          parts: losses, worked one after another, whose sum is the step's.
        """
        total = 0.0
        for part in parts:
            loss = part()
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def load(model: nn.Module, folder: pathlib.Path) -> nn.Module:
    """With the weights of the case: all of them, and no others."""
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model


def arrays_of(path: pathlib.Path) -> dict[str, Tensor]:
    """Of a file of numpy; whole numbers as torch wants indices."""
    with np.load(path) as file:
        found = {name: torch.from_numpy(x) for name, x in file.items()}
    return {name: x.long() if x.dtype == torch.int32 else x for name, x in found.items()}


def main(sides: Mapping[str, Callable[[dict, pathlib.Path], dict]]) -> None:
    """Of a peer: `python -m MODULE SIDE FOLDER`. A side makes tasks of the case's settings."""
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    serve(sides[name](json.loads((folder / "case.json").read_text()), folder))
