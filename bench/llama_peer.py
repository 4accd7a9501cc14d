"""PyTorch's side of bench/lora_step.py and bench/metamorph_step.py: transformers' Llama, peft.

python -m bench.llama_peer SIDE FOLDER
"""

import functools
import itertools
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import peft
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from bench.janus_contender import steps_of, telling
from bench.janus_documents import IGNORED, Documents, Padded, micro_batches, pad, padding_share
from bench.resident import peak_of, resident
from bench.steps_torch import Training, arrays_of, load, main

MICRO_BATCH = 8  # documents padded together: the default of transformers' Trainer
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


# MetaMorph


class MetaMorph(nn.Module):
    """transformers' Llama and frozen SigLIP, and the perceptrons between them."""

    def __init__(self, settings: dict):
        super().__init__()
        text, vision = LlamaConfig(**settings["llama"]), SiglipVisionConfig(**settings["siglip"])
        self.language_model = LlamaForCausalLM(text)
        self.vision_tower = SiglipVisionModel(vision).requires_grad_(False)
        self.mm_projector = _perceptron(vision.hidden_size, text.hidden_size, text.hidden_size)
        self.vision_head = _perceptron(text.hidden_size, text.hidden_size, vision.hidden_size)
        self.grid = settings["grid"]

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> Tensor:
        """Of uint8 [B, height, width, 3]: patches pooled to the grid, of length one."""
        signed = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = self.vision_tower(pixel_values=signed).last_hidden_state
        side = round(patches.shape[1] ** 0.5)
        square = patches.transpose(1, 2).unflatten(2, (side, side))
        pooled = F.interpolate(square, size=(self.grid, self.grid), mode="bilinear")
        return F.normalize(pooled.flatten(2).transpose(1, 2), dim=-1)

    def loss(self, batch: Padded, words: int, vectors: int) -> Tensor:
        """Of some documents of a step that has so many words and features to answer with."""
        ids, label, shown, made, mask = (
            torch.from_numpy(x) for x in (batch.ids, batch.label, batch.und, batch.gen, batch.mask)
        )
        x = self.language_model.get_input_embeddings()(ids)
        features = torch.zeros(*ids.shape, self.vision_head[-1].out_features)
        if len(batch.und_pixels):
            features = features.masked_scatter(shown[..., None], self.features(batch.und_pixels))
            x = x.masked_scatter(shown[..., None], self.mm_projector(features[shown]))
        hidden = self.language_model.model(
            inputs_embeds=x, attention_mask=None if mask.all() else mask.long(), use_cache=False
        ).last_hidden_state
        logits = self.language_model.lm_head(hidden).flatten(0, 1)
        loss = F.cross_entropy(logits, label.flatten(), ignore_index=IGNORED, reduction="sum")
        wanted = features.roll(-1, dims=1)[made]  # a state answers with what stands next
        found = F.normalize(self.vision_head(hidden[made]), dim=-1)
        return loss / words - (found * wanted).sum() / vectors


def _perceptron(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.GELU(), nn.Linear(hidden, out))


def metamorph(by_length: bool, settings: dict, folder: pathlib.Path) -> dict:
    """Task: a round of steps, each on the documents that were packed for it here."""
    model = load(MetaMorph(settings), folder)
    training, tokens = Training(model), settings["grid"] ** 2
    told: list[dict] = []

    def step(documents: Documents) -> float:
        lengths = documents.lengths
        chosen = micro_batches(lengths, MICRO_BATCH, by_length)
        told.append({"documents": len(lengths), "padding": padding_share(lengths, chosen)})
        answers = documents.label != IGNORED, documents.gen
        of_step = [max(1, int(of.sum())) for of in answers]  # a step may have none of one
        padded = (pad(documents, some, (tokens, tokens)) for some in chosen)
        return training.step(functools.partial(model.loss, one, *of_step) for one in padded)

    stream = (Documents.load(folder / f"step-{i}.npz") for i in itertools.count())
    return {"steps": telling(steps_of(step, stream), told)}


SIDES = {
    "lora": functools.partial(adapters, False),
    "whole": functools.partial(adapters, True),
    "as they come": functools.partial(metamorph, False),
    "by length": functools.partial(metamorph, True),
}

if __name__ == "__main__":
    main(SIDES)
