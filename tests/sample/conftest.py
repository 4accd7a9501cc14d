"""A small Janus of transformers with random weights, and ours with the same."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import JanusForConditionalGeneration

from bench import janus_case
from tests.interop.conftest import random_weights, small_config, write_tokenizer
from unijax.data.templates import TEMPLATES
from unijax.data.tokenizer import load
from unijax.interop.importing import import_checkpoint
from unijax.interop.opening import config_of
from unijax.sample.sampler import Sampler
from unijax.systems.janus import Janus
from unijax.train.checkpoint import read_params, read_run

PROMPTS = ["a red cat", "two blue dogs on the mat", "the cat, the dog, the mat and the red dogs"]


@dataclasses.dataclass
class Pair:
    """The same model twice."""

    theirs: JanusForConditionalGeneration
    ours: Sampler
    params: dict  # of ours, as they are stored


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("sample")
    config = small_config()
    config.text_config.num_hidden_layers = 2
    theirs = JanusForConditionalGeneration(config).eval()
    random_weights(theirs, 0)
    theirs.save_pretrained(folder / "hf")
    write_tokenizer(folder / "hf")
    import_checkpoint(folder / "hf", folder / "run")
    tokenizer = load(folder / "run" / "tokenizer")
    special, generation = tokenizer.special, theirs.generation_config
    generation.bos_token_id, generation.eos_token_id = special.bos, special.eos
    generation.pad_token_id = special.pad
    generation.generation_kwargs = {"boi_token_id": special.boi}
    system = Janus(config_of(read_run(folder / "run"), "run")[1])
    params = read_params(folder / "run")
    # Small batches, so that the tests share a few programs; transformers rounds the short side.
    sampler = Sampler(system, params, tokenizer, TEMPLATES["janus_pro"], rounding="round", batch=4)
    return Pair(theirs, sampler, params)


@pytest.fixture(scope="session")
def sampler(pair) -> Sampler:
    return pair.ours


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawing_ids(sampler: Sampler, prompt: str) -> list[int]:
    """Of a prompt, up to where the image begins."""
    return janus_case.drawing_ids(
        prompt, sampler.tokenizer, sampler.template, sampler.system.layout
    )


def margin(logits: torch.Tensor) -> np.ndarray:
    """Between the best two of the last dim."""
    best = logits.topk(2, dim=-1).values
    return (best[..., 0] - best[..., 1]).numpy()
