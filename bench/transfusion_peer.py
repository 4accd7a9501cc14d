"""PyTorch's side: `python -m bench.transfusion_peer FOLDER`, asked by bench/transfusion_step.py."""

import functools
import itertools
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bench.janus_contender import serve, steps_of
from bench.steps_torch import Training

# All of its networks import peft where there is one, and that imports accelerate.
diffusers.utils.import_utils._peft_available = diffusers.utils.USE_PEFT_BACKEND = False


class Transfusion(nn.Module):
    """transformers' Llama, and the two halves of diffusers' U-Net around it."""

    def __init__(self, config: dict):
        super().__init__()
        text, unet = config["text"], config["unet"]
        channels = unet["block_out_channels"]
        shape = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                 "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
                 "rope_theta")  # fmt: skip
        llama = LlamaConfig(**{k: text[k] for k in shape}, tie_word_embeddings=False)
        self.language_model = LlamaForCausalLM(llama)
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=unet["sample_size"], in_channels=unet["in_channels"],
            out_channels=unet["out_channels"], block_out_channels=channels,
            layers_per_block=unet["layers_per_block"], mid_block_type=None,
            down_block_types=["DownBlock2D"] * len(channels),
            up_block_types=["UpBlock2D"] * len(channels),
        )  # fmt: skip
        self.proj_in = nn.Linear(channels[-1], text["hidden_size"])
        self.proj_out = nn.Linear(text["hidden_size"], channels[-1])
        self.noise_weight = config["noise_weight"]

    @classmethod
    def from_export(cls, folder: pathlib.Path) -> "Transfusion":
        model = cls(json.loads((folder / "config.json").read_text())["model"])
        inner = ("embed_tokens", "layers", "norm")  # of transformers' Llama, beside its head
        names = {f"language_model.{name}": f"language_model.model.{name}" for name in inner}
        names["image_layers."] = ""
        state = {}
        for name, x in load_file(folder / "model.safetensors").items():
            begins = next((old for old in names if name.startswith(old)), "")
            state[names.get(begins, "") + name.removeprefix(begins)] = x
        state = {name: x for name, x in state.items() if not name.startswith("autoencoder.")}
        model.load_state_dict(state)
        return model

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Means over the targets, and over the pictures."""
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(batch["timestep"] + 1))  # 0 is a clean picture
        x = unet.conv_in(batch["noised"])
        skips = [x]
        for block in unet.down_blocks:
            x, more = block(x, time)
            skips += more
        coarsest = x.shape
        tokens = self.proj_in(x.flatten(2).transpose(1, 2))
        at = batch["column"][:, None] + torch.arange(tokens.shape[1])
        row = batch["row"][:, None].expand_as(at)
        embedded = self.language_model.get_input_embeddings()(batch["ids"])
        embedded = embedded.index_put((row, at), tokens)
        hidden = self.language_model.model(
            inputs_embeds=embedded, attention_mask=mask(batch["segment"], batch["image"]),
            position_ids=batch["position"], use_cache=False,
        ).last_hidden_state  # fmt: skip
        learned = batch["label"] >= 0
        logits = self.language_model.lm_head(hidden[learned])
        text = F.cross_entropy(logits, batch["label"][learned])
        x = self.proj_out(hidden[row, at]).transpose(1, 2).reshape(coarsest)
        for block in unet.up_blocks:
            n = len(block.resnets)
            x, skips = block(x, tuple(skips[-n:]), time), skips[:-n]
        x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return text + self.noise_weight * F.mse_loss(x, batch["noise"])


def mask(segment: Tensor, image: Tensor) -> Tensor:
    """[B, 1, T, T] to be added: a document's past, and all of an image (section 3)."""
    at = torch.arange(segment.shape[1])
    same = lambda x: x[:, :, None] == x[:, None, :]  # noqa: E731
    seen = (at[:, None] >= at) | (same(image) & (image > 0)[:, None])
    seen = seen & same(segment) | torch.eye(len(at), dtype=torch.bool)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def training(folder: pathlib.Path) -> dict:
    """Task: a round of steps."""
    model = Transfusion.from_export(folder / "model")
    steps = Training(model)

    def step(batch: dict[str, Tensor]) -> float:
        batch = {k: x if x.is_floating_point() else x.long() for k, x in batch.items()}
        return steps.step([functools.partial(model.loss, batch)])

    loaded = (np.load(folder / f"step-{number}.npz") for number in itertools.count())
    stream = ({k: torch.from_numpy(x) for k, x in file.items()} for file in loaded)
    return {"steps": steps_of(step, stream)}


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    serve(training(pathlib.Path(sys.argv[1])))
