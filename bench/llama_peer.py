"""PyTorch's side of bench/lora_step.py and bench/metamorph_step.py: transformers' Llama, peft.

python -m bench.llama_peer SIDE FOLDER
"""

import functools
import itertools
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bench.janus_contender import steps_of
from bench.resident import peak_of, resident
from bench.steps_torch import Training, arrays_of, main

IGNORED = -100
_ADAPTERS = "base_model."  # what names of peft's adapters begin with


# Adapters


def adapted(model: nn.Module, settings: dict, tensors: dict[str, Tensor]) -> nn.Module:
    """With peft's adapters in all linear layers but the head."""
    config = peft.LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(model, config)
    unknown = peft.set_peft_model_state_dict(model, tensors).unexpected_keys
    assert not unknown, unknown
    assert sum(p.requires_grad for p in model.parameters()) == len(tensors)
    return model


def adapters(whole: bool, settings: dict, folder: pathlib.Path) -> dict:
    """Tasks: a round of steps; the memory of one.

    Args:
      whole: all parameters train, and there are no adapters.
    """
    batch, before = arrays_of(folder / "batch.npz"), resident()
    tensors = load_file(folder / "weights.safetensors")
    own = {name: tensors.pop(name) for name in [*tensors] if name.startswith(_ADAPTERS)}
    model = LlamaForCausalLM(LlamaConfig(**settings["llama"]))
    model.load_state_dict(tensors)
    training = Training(model if whole else adapted(model, settings, own))
    del tensors, own

    def loss() -> Tensor:
        logits = training.model(input_ids=batch["ids"], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["label"].flatten(), ignore_index=IGNORED)

    def memory() -> dict:
        size = lambda tensors: sum(x.nbytes for x in tensors)  # noqa: E731
        states = training.optimizer.state.values()
        return {
            "parameters": size(training.model.parameters()),
            "optimizer": size(x for state in states for x in state.values()),
            "peak": peak_of(lambda: training.step([loss])) - before,
        }

    return {"steps": steps_of(training.step, itertools.repeat([loss])), "memory": memory}


SIDES = {
    "lora": functools.partial(adapters, False),
    "whole": functools.partial(adapters, True),
}

if __name__ == "__main__":
    main(SIDES)
