"""A step of Transfusion in PyTorch and here, side by side on this machine, in float32.

    python -m bench.transfusion_step                 # prints a table for docs/benchmarks.md
    python -m bench.transfusion_step --quick         # tiny sizes: whether it runs

The peer (`bench/transfusion_peer.py`) is what its user would write: transformers' Llama with the
four-dimensional mask of the paper, diffusers' U-Net blocks, torch's fused AdamW. Both get the same
weights and the same packed rows of captions, pictures and definitions of words, with the latents of
the pictures at hand; the peer is handed noised latents and noise too, which ours draws in the step.
Losses of the first step have to agree before anything is timed. A process each, in turns; ratios
are taken round by round.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bench.janus_contender import Contender, serve
from bench.janus_report import Spread, machine, ratio, table
from unijax.core import tree
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.record import to_json
from unijax.data.batch import Cached
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.tokenizer import load as load_tokenizer
from unijax.interop.exporting import export_checkpoint
from unijax.models.autoencoder import AutoencoderConfig, Posterior
from unijax.models.llama import LlamaConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import add_noise, draw_noise
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.transfusion import IMAGE, Transfusion, TransfusionConfig
from unijax.train import setup
from unijax.train.checkpoint import read_params
from unijax.train.stage import OptimizerConfig, Rule, StageConfig
from unijax.train.streaming import LazyArray, write_params

TOKENIZER = "assets/tokenizer"
STEPS = 4  # of a round
STAGE = StageConfig(
    name="bench",
    steps=1000,
    rules=(Rule("autoencoder/", frozen=True), Rule("")),
    optimizers={"main": OptimizerConfig(learning_rate=1e-4)},
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the network, and of a step."""

    model: TransfusionConfig
    rows: int
    row_length: int


def _case(text: LlamaConfig, channels: tuple[int, int], side: int, rows: int, length: int) -> Case:
    unet = UNetConfig(
        in_channels=8, out_channels=8, sample_size=side, block_out_channels=channels,
        layers_per_block=2, attention_levels=(False, False), cross_attention_dim=0,
        mid_block=False,
    )  # fmt: skip
    autoencoder = AutoencoderConfig(8 * side, 8, (32, 32, 32, 32), 1)
    return Case(TransfusionConfig(text, autoencoder, unet=unet, head_chunk=length), rows, length)


CASES = {
    # Pictures of 256 tokens as in the paper; the U-Net has its share of the 0.76B model.
    "full": _case(LlamaConfig(8192, 512, 1408, 8, 8, 8, 64, 1e-5), (64, 128), 32, 2, 1024),
    "quick": _case(LlamaConfig(4096, 64, 96, 2, 2, 2, 32, 1e-5), (32, 32), 8, 1, 256),
}


def loader(case: Case) -> Loader:
    """Half pictures to draw from their captions, a quarter captions of pictures, a quarter text."""
    emoji = {"path": "emoji", "limit": 512}
    groups = (
        GroupConfig("und", 1.0, (SourceConfig("captions", "name", **emoji),)),
        GroupConfig("text", 1.0, (SourceConfig("words", "text", path="text"),)),
        GroupConfig("gen", 2.0, (SourceConfig("pictures", "generate", **emoji),)),
    )
    system = Transfusion(case.model)
    data = DataConfig(
        groups=groups, row_length=case.row_length, rows=case.rows, learn_prompts=True,
        slots={IMAGE: case.row_length // case.model.num_tokens},
    )  # fmt: skip
    how = system.encoded[IMAGE]

    def moments(key: str) -> np.ndarray:
        mean = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(how.shape, "f4")
        mean[..., case.model.autoencoder.latent_channels :] = -10.0  # log-variances
        return mean

    cached = {IMAGE: Cached(how.field, moments, how.shape, how.dtype)}
    return Loader(data, system.layout, load_tokenizer(TOKENIZER), cached=cached)


def write_case(case: Case, folder: pathlib.Path, steps: int) -> None:
    """Writes `run`, `model` (its export) and `step-N.npz`, what the peer is handed."""
    run = folder / "run"
    run.mkdir()
    load_tokenizer(TOKENIZER).save(run / "tokenizer")
    system = Transfusion(case.model)
    params = jax.jit(lambda key: nn.unbox(system.init(key)))(jax.random.key(0))
    drawn = tree.flatten(jax.device_get(params))
    lazy = {path: LazyArray(x.shape, x.dtype, lambda x=x: x) for path, x in drawn.items()}
    config = {"system": "transfusion", "model": to_json(case.model), "data": {}}
    write_params(run, lazy, {"stage": "bench", "config": config})
    export_checkpoint(run, folder / "model")
    batches = loader(case)
    for step in range(steps):
        np.savez(folder / f"step-{step}.npz", **_handed(system, next(batches)))
    batches.close()


def _handed(system: Transfusion, batch: PackedBatch) -> dict[str, np.ndarray]:
    """A batch as arrays of ids, labels and pictures in the order of their places in the rows."""
    slots, n = batch.images[IMAGE], system.maker.tokens
    timestep = system.timesteps(slots)
    drawn = Posterior.of(jnp.asarray(slots.latents)).sample(slots.seed)
    clean = system.config.autoencoder.scaled(drawn)
    noise = draw_noise(slots.seed, clean.shape[2:])
    noised = add_noise(clean, noise, system.config.schedule.level(timestep))
    patch = batch.kind == Kind.GEN
    row, column = np.nonzero(patch & (batch.tokens % n == 0))
    slot = batch.tokens[row, column] // n
    of_places = lambda x: np.moveaxis(np.asarray(x)[row, slot], -1, 1)  # noqa: E731
    text = batch.target_kind == Target.TEXT
    return {
        "ids": np.where(patch, 0, batch.tokens),
        "position": batch.position,
        "segment": batch.segment,
        "image": batch.image,
        "label": np.where(text & (batch.weight > 0), batch.target, -100),
        "row": row,
        "column": column,
        "noised": of_places(noised),
        "noise": of_places(noise),
        "timestep": np.asarray(timestep)[row, slot],
    }


def ours(case: Case, folder: pathlib.Path) -> dict:
    """Task: a round of steps."""
    system = Transfusion(case.model)
    trainer = setup.build(system, STAGE, make_mesh(MeshConfig()), "data", jnp.float32, seed=0)
    state = trainer.begin(read_params(folder / "run", trainer.abstract))
    batches = loader(case)

    def steps(count: int) -> dict:
        nonlocal state
        taken = [next(batches) for _ in range(count)]
        losses, documents, filled = [], 0, 0.0
        began = time.perf_counter()
        for batch in taken:
            state, metrics = trainer.train_step(state, trainer.put(batch))
            total, weight = metrics["loss"]
            losses.append(float(total) / float(weight))
            documents += int(batch.segment.max(axis=1).sum())
            filled += float((batch.segment > 0).mean()) / count
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "losses": losses, "documents": documents, "filled": filled}

    return {"steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 with --quick")
    parser.add_argument("--serve", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    name = "quick" if options.quick else "full"
    case, rounds = CASES[name], options.rounds or (1 if options.quick else 5)
    if options.serve:
        serve(ours(case, options.serve))
        return
    quick = ["--quick"] if options.quick else []
    with tempfile.TemporaryDirectory() as folder:
        write_case(case, pathlib.Path(folder), 1 + rounds * STEPS)
        with (
            Contender("bench.transfusion_step", *quick, "--serve", folder) as mine,
            Contender("bench.transfusion_peer", folder) as theirs,
        ):
            sides = {"unijax": mine, "PyTorch": theirs}
            first = [side.ask("steps", count=1)["losses"][0] for side in sides.values()]
            apart = abs(first[0] / first[1] - 1)
            if apart > 1e-4:
                sys.exit(f"the first losses differ: {first}")
            taken: dict[str, list[dict]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, contender in sides.items():
                    taken[side].append(contender.ask("steps", count=STEPS))
    documents = [reply["documents"] for reply in taken["unijax"]]
    filled = np.mean([reply["filled"] for reply in taken["unijax"]])
    seconds = {side: [r["seconds"] for r in replies] for side, replies in taken.items()}
    lines = []
    for side, of_side in seconds.items():
        rate = Spread.of([d / s for d, s in zip(documents, of_side)])
        lines.append((side, Spread.of([s / STEPS for s in of_side]).text(3), rate.text(2)))
    times = ratio(seconds["PyTorch"], seconds["unijax"]).text(2)
    lines.append(("**ratio**", "", f"**{times}**"))
    count = sum(case.model.text.count_parameters().values())
    print(machine())
    print(
        f"decoder {count / 1e6:.1f}M, {case.rows} rows of {case.row_length} tokens, {filled:.0%} "
        f"filled, {np.mean(documents) / STEPS:.1f} documents; first losses {apart:.0e} apart"
    )
    print(table(("", "seconds a step", "documents a second"), lines))


if __name__ == "__main__":
    main()
