"""The pictures that a run trains on and is judged by."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.processes import to_host
from unijax.core.system import ClassSystem, MaskedSystem, Params, System, TextSystem
from unijax.data.captions import CaptionTokenizer
from unijax.data.pictures import PictureConfig, PictureLoader
from unijax.data.tokenizer import check_vocab
from unijax.evaluate.zero_shot import judge, prompt_ids
from unijax.main.run import RunConfig
from unijax.train import cache
from unijax.train.loop import Evaluator, take
from unijax.train.setup import Trainer
from unijax.train.state import TrainState, evaluation_params
from unijax.train.writers import Writers


def pictures(
    run: RunConfig,
    system: System,
    params: Params,
    tokenizer: CaptionTokenizer | None,
    share: dict[str, int],
    run_dir: pathlib.Path,
) -> tuple[PictureLoader, list[ImageBatch]]:
    """The stream of pictures to train on, and the held-out batches; this process's share.

    Of held-out pictures the middle is seen where those of training are cropped at random.
    """
    if tokenizer is not None and isinstance(system, TextSystem):
        check_vocab(tokenizer, system.vocab_size)
    if isinstance(system, ClassSystem) and len(run.data.classes) != system.classes:
        raise UserError(
            "data.classes",
            f"{len(run.data.classes)}",
            f"{system.classes} names, as model.classes says",
            "Change one of them.",
        )
    held = run.validation.sources
    how: dict[str, Any] = dict(share)
    if isinstance(system, MaskedSystem):
        how["masking"] = system.masking
    if run.cache_frozen:
        every = run.data.sources + (held if run.validation.batches else ())
        how["cached"] = cache.picture_tables(system, params, run.data, every, run_dir)
    loader = PictureLoader(run.data, tokenizer, **how)
    if not run.validation.batches:
        return loader, []
    crop = "centre" if run.data.crop == "random" else run.data.crop
    classes = run.validation.classes or run.data.classes
    data = dataclasses.replace(run.data, sources=held, crop=crop, classes=classes)
    fixed = PictureLoader(data, tokenizer, **how, shuffle=False)
    return loader, take(fixed, run.validation.batches)


def zero_shot(
    run: RunConfig,
    system: System,
    tokenizer: CaptionTokenizer | None,
    held_out: list,
    trainer: Trainer,
) -> Evaluator:
    """The share of held-out pictures whose class is named, from prompts alone."""
    labelled = held_out and isinstance(run.data, PictureConfig) and held_out[0].label is not None
    if not labelled or tokenizer is None or not isinstance(system, TextSystem):
        raise UserError(
            "validation.prompts", f"{len(run.validation.prompts)} for the system {run.system!r}",
            "a system of pictures and texts, its tokenizer, validation.batches and the classes",
            "Add what is missing, or leave the prompts out.",
        )  # fmt: skip
    classes = run.validation.classes or run.data.classes
    prompts = prompt_ids(tokenizer, classes, run.validation.prompts, run.data.text_length)
    right = judge(system, *prompts)

    def evaluate(state: TrainState, step: int, writers: Writers) -> None:
        params = evaluation_params(state)
        counted = [[*map(to_host, right(params, trainer.put(batch)))] for batch in held_out]
        found, count = np.sum(counted, axis=0)
        writers.scalars(step, {"zero_shot/accuracy": float(found / count)})

    return evaluate
