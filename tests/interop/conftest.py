"""A small Janus of transformers with random weights, on disk, and its import and export."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig

from tests.systems.small import random_params
from unijax.core import tree
from unijax.core.record import to_json
from unijax.data import tokenizer as tokenizers_of_data
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.systems.registry import recipe
from unijax.train.streaming import LazyArray, write_params

torch.set_num_threads(1)  # models this small only wait for each other

SPECIAL = {
    "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>",
    "pad_token": "<｜▁pad▁｜>",
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_placeholder>",
}
ROLES = ("<|User|>", "<|Assistant|>")
VOCAB = 320
WIDTH = 32


def random_weights(model: torch.nn.Module, seed: int) -> None:
    """Every parameter unlike its neighbours and its default; activations of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1:
                p.copy_(0.2 * noise + ("norm" in name and name.endswith("weight")))
            elif "embed" in name or "embedding" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * p[0].numel() ** -0.5)


def write_run(directory: pathlib.Path, system: str, config: Any) -> pathlib.Path:
    """A run at step 0 with random weights, made in numpy; with a tokenizer if it eats rows."""
    params = tree.flatten(random_params(recipe(system).system(config)))
    directory.mkdir(parents=True)
    if recipe(system).eats == "rows":
        (directory / "hf").mkdir()
        write_tokenizer(directory / "hf")
        tokenizers_of_data.load(directory / "hf").save(directory / "tokenizer")
    lazy = {
        p: LazyArray(x.shape, np.dtype(np.float32), lambda x=x: np.asarray(x))
        for p, x in params.items()
    }
    recorded = {"system": system, "model": to_json(config)}
    write_params(directory, lazy, {"stage": "check", "config": recorded})
    return directory


def run_alone(program: str, place: pathlib.Path) -> None:
    """In a process that finds, of this project, the files of an export alone."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env={"PYTHONPATH": str(place)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def small_config(**top) -> JanusConfig:
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        ),
        vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64,
            patch_size=16, num_image_tokens=16, projection_dim=WIDTH, mlp_ratio=1.5,
        ),
        vq_config=dict(
            base_channels=32, channel_multiplier=[1, 2], num_res_blocks=1, latent_channels=16,
            num_embeddings=48, projection_dim=WIDTH, image_token_embed_dim=WIDTH,
        ),
        image_token_id=5,
        **{"tie_word_embeddings": False, **top},
    )  # fmt: skip


def write_tokenizer(directory) -> None:
    """Byte-level BPE with the special tokens of Janus, as Hugging Face writes it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 4,
        special_tokens=[*SPECIAL.values(), *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a red cat on the mat, two blue dogs"] * 50, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def hf_model() -> JanusForConditionalGeneration:
    model = JanusForConditionalGeneration(small_config()).eval()
    random_weights(model, 0)
    return model


@pytest.fixture(scope="session")
def hf_dir(hf_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf") / "model"
    hf_model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def run_dir(hf_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "imported"
    import_checkpoint(hf_dir, directory)
    return directory


@pytest.fixture(scope="session")
def export_dir(run_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    export_checkpoint(run_dir, directory)
    return directory


@pytest.fixture
def rng():
    return np.random.default_rng(0)
