"""A training step of MetaMorph in PyTorch and here, side by side on this machine, in float32.

    python -m bench.metamorph_step                 # prints a table for docs/benchmarks.md
    python -m bench.metamorph_step --quick         # tiny sizes: whether it runs

The peer (`bench/llama_peer.py`) is transformers' Llama and frozen SigLIP, the perceptrons between
them, and torch's fused AdamW. Both get the same weights and in each step the same documents, of the
mixture of bench/janus.py. The peer finds tokenised texts and decoded pictures in memory; batches of
8 documents are padded to their longest, as they come or sorted by length first, their gradients
added up; pictures are encoded in each step, and the text head runs everywhere. Here the whole
loader runs, rows are packed, and features are cached ahead, or encoded in the step for comparison.
Losses of the first steps have to agree before anything is timed. A process each, in turns.
"""

import dataclasses
import itertools
import pathlib

import numpy as np

from bench import steps, steps_ours
from bench.janus_case import TEMPLATE, TOKENIZER, mixture, random_params
from bench.janus_contender import steps_of, telling
from bench.janus_documents import IGNORED, Documents
from bench.janus_report import Spread, table
from bench.janus_sections import every
from unijax.core import tree
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.data.config import DataConfig
from unijax.data.loader import Loader
from unijax.data.tokenizer import load as load_tokenizer
from unijax.interop.config_files import siglip_json
from unijax.interop.live_llama import llama_keys
from unijax.interop.parts import llama, siglip
from unijax.interop.table import linear
from unijax.main.run import RunConfig
from unijax.main.train import cached_tables, rows
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.systems.metamorph import IMAGE, MetaMorph, MetaMorphConfig
from unijax.train.loop import LoopConfig
from unijax.train.stage import Rule

STEPS = 4  # of a round
OURS, PEER = "bench.metamorph_step", "bench.llama_peer"
COME, SORTED = "PyTorch, as they come", "PyTorch, by length"
GROUPS = (
    {
        COME: (PEER, "as they come"),
        SORTED: (PEER, "by length"),
        "unijax, encoding in the step": (OURS, "encoding"),
        "unijax": (OURS, "cached"),
    },
)
STAGE = steps_ours.stage(Rule("vision_model/", frozen=True), Rule(""))


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the network, of a step, and how many pictures a source has."""

    model: MetaMorphConfig
    rows: int
    row_length: int
    pictures: int

    @property
    def data(self) -> DataConfig:
        slots = {IMAGE: self.row_length // self.model.num_tokens}
        groups = mixture(self.pictures)
        return DataConfig(groups, self.row_length, self.rows, slots, template=TEMPLATE)


CASES = {
    # 64 features a picture as published, of a tower whose share of a step is about that published.
    "full": Case(
        MetaMorphConfig(
            LlamaConfig(8192, 512, 1408, 8, 8, 8, 64), SiglipConfig(128, 8, 256, 1024, 4, 4)
        ),
        rows=2, row_length=1024, pictures=512,
    ),
    "quick": Case(
        MetaMorphConfig(
            LlamaConfig(4096, 64, 96, 2, 2, 2, 32), SiglipConfig(32, 8, 32, 64, 1, 2), grid=2
        ),
        rows=1, row_length=256, pictures=16,
    ),
}  # fmt: skip


def documents_of(batch: PackedBatch, tokens: int) -> Documents:
    """Those of packed rows, one after another.

    `und` are the positions of pictures of either role, `gen` those that answer with a feature.
    """
    here = batch.segment > 0
    picture = (batch.kind == Kind.UND) | (batch.kind == Kind.GEN)
    row, column = np.nonzero(picture & (batch.tokens % tokens == 0))
    answers = batch.target_kind == Target.TEXT
    return Documents(
        ids=np.where(picture, 0, batch.tokens)[here],
        label=np.where(answers, batch.target, IGNORED)[here],
        und=picture[here],
        gen=(batch.target_kind == Target.FEATURE)[here],
        lengths=np.concatenate([np.bincount(segment)[1:] for segment in batch.segment]),
        und_pixels=batch.images[IMAGE].pixels[row, batch.tokens[row, column] // tokens],
        gen_pixels=None,
        codes=None,
    )


def write(case: Case, folder: pathlib.Path, count: int) -> None:
    c, system = case.model, MetaMorph(case.model)
    entries = [
        *llama(c.text, "language_model", "language_model.model", "language_model.lm_head.weight"),
        *siglip(c.vision, "vision_model", "vision_tower.", "out_proj"),
        *linear("aligner/fc1", "mm_projector.0"),
        *linear("aligner/hidden_layers_0", "mm_projector.2"),
        *linear("vision_head/fc1", "vision_head.0"),
        *linear("vision_head/fc2", "vision_head.2"),
    ]
    settings = {"llama": llama_keys(c.text), "siglip": siglip_json(c.vision), "grid": c.grid}
    steps_ours.write(folder, settings, entries, random_params(system))
    loader = Loader(case.data, system.layout, load_tokenizer(TOKENIZER))
    for step in range(count):
        documents_of(next(loader), c.num_tokens).save(folder / f"step-{step}.npz")
    loader.close()


def ours(case: Case, folder: pathlib.Path, side: str) -> dict:
    """Task: a round of steps, as `unijax train` takes them."""
    system, tokenizer = MetaMorph(case.model), load_tokenizer(TOKENIZER)
    flat, tables = random_params(system), None
    run = RunConfig("the benchmark", "metamorph", case.model, case.data, STAGE, TOKENIZER,
                    LoopConfig())  # fmt: skip
    if side == "cached":
        params = tree.unflatten(flat)
        tables = cached_tables(run, system, params, tokenizer, folder / "cache")
    loader, _ = rows(run, system, tokenizer, tables, {"process_index": 0, "process_count": 1})
    first = next(loader)
    training = steps_ours.Training(system, STAGE, first).begin(flat)
    stream, told = itertools.chain([first], loader), []

    def step(_) -> float:
        batch = next(stream)  # by the clock: the loader is part of a step
        documents = int(batch.segment.max(axis=1).sum())
        told.append({"documents": documents, "padding": float((batch.segment == 0).mean())})
        return training.step(batch)

    return {"steps": telling(steps_of(step, itertools.repeat(None)), told)}


def main() -> None:
    case, found = steps.run(__doc__, CASES, write, ours, GROUPS, STEPS)
    text, vision = case.model.text, case.model.vision
    documents = every(found.taken[COME], "documents")
    assert all(every(of, "documents") == documents for of in found.taken.values())
    print(
        f"A decoder of width {text.hidden_size} with {text.num_hidden_layers} layers, a tower of "
        f"width {vision.hidden_size} with {vision.num_hidden_layers}, {case.model.num_tokens} "
        f"features of {vision.num_tokens} patches a picture; {case.rows} rows of "
        f"{case.row_length} tokens, {np.mean(documents):.1f} documents a step."
    )
    lines = [
        (
            title,
            found.seconds(title),
            found.rates(title, lambda reply: reply["documents"] * len(reply["losses"])),
            f"{Spread.of(every(of, 'padding')).median:.0%}",
            found.over(title, COME),
            found.over(title, SORTED),
        )
        for title, of in found.taken.items()
    ]
    titles = ("", "seconds a step", "documents a second", "padding", "over as they come")
    print(table((*titles, "over by length"), lines))


if __name__ == "__main__":
    main()
