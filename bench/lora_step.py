"""A step of adapters (LoRA) in peft and here, side by side on this machine, in float32.

    python -m bench.lora_step                 # prints tables for docs/benchmarks.md
    python -m bench.lora_step --quick         # tiny sizes: whether it runs

The peer (`bench/llama_peer.py`) is transformers' Llama with peft's adapters, and torch's fused
AdamW; here it is Chameleon's decoder on rows of text. Adapters of one rank stand in all linear
layers of the decoder, those alone train; beside them steps that train all parameters. Both sides
get the same weights, adapters that are not zero among them, and the same full rows. Losses of the
first steps have to agree before anything is timed. A process each, in turns.

Memory is resident memory of the process beyond what it has before there are parameters, at its most
in a step. Here the program is compiled before that, and the compiler says how much of a step's it
has for temporaries.
"""

import dataclasses
import itertools
import pathlib

import jax
import numpy as np

from bench import steps, steps_ours
from bench.janus_case import random_params
from bench.janus_contender import steps_of
from bench.janus_documents import IGNORED
from bench.janus_report import table
from bench.resident import peak_of, resident
from unijax.core.batch import PackedBatch, Target
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.document import Document, TextSpan
from unijax.interop.live_llama import llama_keys
from unijax.interop.parts import llama
from unijax.interop.table import LINEAR, Entry
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import Chameleon, ChameleonConfig
from unijax.train import lora
from unijax.train.stage import LoraRule, Rule

STEPS = 2  # of a round
OURS, PEER = "bench.lora_step", "bench.llama_peer"
GROUPS = (
    {"peft": (PEER, "lora"), "unijax": (OURS, "lora")},
    {"PyTorch, all trained": (PEER, "whole"), "unijax, all trained": (OURS, "whole")},
)
VQ = VQConfig(32, 32, (1, 1, 1, 1), 0, 32, 8, 8)  # the smallest: rows have no pictures
SPECIAL = SpecialIds(eos=0, bos=1, pad=2, boi=3, eoi=4)
FIRST_CODE = 5
FIRST_WORD = FIRST_CODE + VQ.num_embeddings


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the decoder, of its adapters, and of a step."""

    text: LlamaConfig
    rank: int
    rows: int
    row_length: int

    @property
    def rule(self) -> LoraRule:
        return LoraRule("language_model/layers/", self.rank, 2.0 * self.rank)

    @property
    def plain(self) -> Chameleon:
        chunk = self.row_length
        return Chameleon(ChameleonConfig(self.text, VQ, FIRST_CODE, z_weight=0.0, head_chunk=chunk))


CASES = {
    "full": Case(LlamaConfig(8192, 1024, 2816, 12, 16, 16, 64), rank=16, rows=2, row_length=512),
    "quick": Case(LlamaConfig(512, 64, 96, 2, 4, 2, 16), rank=4, rows=2, row_length=32),
}


def weights(case: Case) -> dict[str, np.ndarray]:
    """Of the decoder and of its adapters."""
    flat = random_params(lora.adapted(case.plain, (case.rule,)))
    scale = np.float32(case.rule.alpha / case.rank)
    return {p: np.full_like(x, scale) if p.endswith("/lora_scale") else x for p, x in flat.items()}


def batch_of(case: Case) -> PackedBatch:
    """Each row is one document of random words."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(case.rows):
        ids = rng.integers(FIRST_WORD, case.text.vocab_size, case.row_length - 1)
        span = TextSpan(tuple(ids.tolist()), (1.0,) * len(ids))
        rows.append(
            assemble([Document(f"{i}", (span,))], case.row_length, SPECIAL, case.plain.layout)
        )
    return PackedBatch(**{name: np.stack([getattr(row, name) for row in rows]) for name in FIELDS})


def write(case: Case, folder: pathlib.Path, count: int) -> None:
    del count  # all steps are on one batch
    decoder = llama(case.text, "language_model", "model", "lm_head.weight")
    entries = list(decoder)
    for entry in decoder:
        layer, _, leaf = entry.ours[0].rpartition("/")
        if leaf == "kernel" and entry.stacked:
            theirs = f"base_model.model.{entry.theirs.removesuffix('.weight')}"
            for name in "ab":
                adapter = f"{theirs}.lora_{name.upper()}.weight"
                entries.append(Entry((f"{layer}/lora_{name}",), adapter, LINEAR))
    settings = {"llama": llama_keys(case.text), "rank": case.rank, "alpha": case.rule.alpha}
    steps_ours.write(folder, settings, entries, weights(case))
    batch = batch_of(case)
    answers = np.where(batch.target_kind == Target.TEXT, batch.target, IGNORED)
    np.savez(folder / "batch.npz", ids=batch.tokens, label=answers)


def ours(case: Case, folder: pathlib.Path, side: str) -> dict:
    """Tasks: a round of steps; the memory of one."""
    del folder  # weights and batch are a function of the case
    batch = batch_of(case)
    kept = Rule("", frozen=True)
    stage = {
        "lora": steps_ours.stage(Rule(r".*/lora_[ab]$"), kept, lora=(case.rule,)),
        "whole": steps_ours.stage(Rule("language_model/"), kept),
    }[side]
    training = steps_ours.Training(case.plain, stage, batch)
    before = resident()
    flat = weights(case)
    if side == "whole":
        flat = {path: x for path, x in flat.items() if not lora.is_adapter(path)}
    training.begin(flat)
    del flat

    def memory() -> dict:
        size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
        state = training.state
        return {
            "parameters": size((state.params, state.frozen)),
            "optimizer": size(state.opt_state),
            "peak": peak_of(lambda: training.step(batch)) - before,
            "temporaries": training.temporaries,
        }

    return {"steps": steps_of(training.step, itertools.repeat(batch)), "memory": memory}


def main() -> None:
    case, found = steps.run(__doc__, CASES, write, ours, GROUPS, STEPS, ask="memory")
    text, tokens = case.text, case.rows * case.row_length
    print(
        f"A decoder of width {text.hidden_size} with {text.num_hidden_layers} layers, adapters of "
        f"rank {case.rank}, {case.rows} rows of {case.row_length} tokens."
    )
    print(found.table("tokens", tokens))
    rows = []
    for title, of in found.answers.items():
        rest = of["peak"] - of["parameters"] - of["optimizer"]
        sizes = (of["parameters"], of["optimizer"], rest, of["peak"], of.get("temporaries"))
        rows.append((title, *("" if x is None else f"{x / 2**20:,.0f}" for x in sizes)))
    print()
    titles = ("MiB", "parameters", "optimizer", "what else a step takes", "in all")
    print(table((*titles, "temporaries, by the compiler"), rows))


if __name__ == "__main__":
    main()
