"""A training step of MetaQuery in PyTorch and here, side by side on this machine, in float32.

    python -m bench.metaquery_step                 # prints a table for docs/benchmarks.md
    python -m bench.metaquery_step --quick         # tiny sizes: whether it runs

The peer is what its user would write: transformers' Qwen2 without gradients of its parameters,
queries and marks as rows beside its table, the connector, diffusers' Sana, torch's fused AdamW, one
prompt a row, rows padded to the longest as in the released code. Both get the same weights, prompts
and noised latents, and the latents of the pictures at hand; losses of the first step have to agree
before anything is timed. Ours works the frozen decoder without a backward pass and packs prompts
into rows. Ratios are taken round by round.
"""

import argparse
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from bench.janus_report import Spread, machine, ratio, table
from unijax.core import tree
from unijax.core.batch import ImageSlots, PackedBatch
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.interop.systems.metaquery import INTEROP, networks
from unijax.interop.table import foreign_tensors
from unijax.models.connector import ConnectorConfig
from unijax.models.dc_autoencoder import DCAutoencoderConfig
from unijax.models.llama import LlamaConfig
from unijax.models.sana import SanaConfig
from unijax.models.siglip import SiglipConfig
from unijax.ops.diffusion import add_noise, draw_noise
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.metaquery import MetaQuery, MetaQueryConfig
from unijax.train import setup
from unijax.train.stage import OptimizerConfig, Rule, StageConfig

FROZEN = ("language_model", "vision_model", "aligner", "autoencoder")
RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the network, of a step's prompts, and of the rows they are packed into."""

    model: MetaQueryConfig
    prompts: int
    longest: int
    row_length: int


def _case(text: LlamaConfig, sana: SanaConfig, queries: int, layers: int, **step: int) -> Case:
    ae = DCAutoencoderConfig(4 * sana.sample_size, sana.in_channels, (32, 32, 64), (1, 1, 1),
                             (1, 1, 1), 1)  # fmt: skip
    connector = ConnectorConfig(text.hidden_size, sana.caption_channels, layers)
    tower = SiglipConfig(16, 8, 32, 32, 1, 2)
    first = text.vocab_size
    return Case(
        MetaQueryConfig(text, tower, queries=queries, marks=(first, first + 1),
                        connector=connector, generator=sana, autoencoder=ae),
        **step,
    )  # fmt: skip


def _qwen(width: int, hidden: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(4096, width, hidden, layers, heads, 2, width // heads, 1e-6, 1e6,
                       qkv_bias=True, tie_word_embeddings=True)  # fmt: skip


CASES = {
    # The decoder's width and Sana 0.6B's, fewer layers of each; 64 queries as in the ablations.
    "full": _case(
        _qwen(896, 4864, 4, 14),
        SanaConfig(8, 32, 32, 4, 36, 32, 16, 72, 2304),
        64, 4, prompts=8, longest=96, row_length=704,
    ),
    "quick": _case(
        _qwen(128, 192, 2, 4), SanaConfig(4, 8, 8, 2, 4, 8, 2, 16, 24), 4, 1,
        prompts=4, longest=12, row_length=64,
    ),
}  # fmt: skip


def batch_of(case: Case, system: MetaQuery) -> PackedBatch:
    """Prompts of many lengths, each with its picture, packed in their order."""
    rng = np.random.default_rng(0)
    first = case.model.text.vocab_size
    special = SpecialIds(eos=0, pad=1, boi=first, eoi=first + 1)
    rows, left = [[]], case.row_length
    for i in range(case.prompts):
        ids = tuple(int(x) for x in rng.integers(2, first, rng.integers(4, case.longest)))
        picture = ImageSpan("gen", ImageRef("picture", b"", i))
        document = Document(f"d{i}", (TextSpan(ids, (0.0,) * len(ids)), picture))
        need = len(ids) + case.model.queries + 2
        if need > left:
            rows.append([])
            left = case.row_length
        rows[-1].append(document)
        left -= need
    arrays = [assemble(row, case.row_length, special, system.layout) for row in rows]
    fields = {name: np.stack([getattr(row, name) for row in arrays]) for name in FIELDS}
    most = max(len(row.images["gen"]) for row in arrays)
    weight, seed = np.zeros((len(rows), most), "f4"), np.zeros((len(rows), most), np.uint32)
    shape = system.autoencoder.encoded_shape
    latents = rng.standard_normal((len(rows), most, *shape)).astype("f4")
    for r, row in enumerate(arrays):
        for s, span in enumerate(row.images["gen"]):
            weight[r, s], seed[r, s] = 1, span.image.seed
    t_max = np.ones_like(weight)
    slots = ImageSlots(weight=weight, seed=seed, t_max=t_max, latents=latents)
    return PackedBatch(**fields, images={"gen": slots})


class Ours:
    """A step as `unijax train` takes it."""

    def __init__(self, case: Case, system: MetaQuery, params: dict, batch: PackedBatch):
        rules = (*(Rule(f"{name}/", frozen=True) for name in FROZEN), Rule(""))
        adam = OptimizerConfig(learning_rate=RATE, clip_norm=1e30)
        stage = StageConfig("bench", 1000, rules, {"main": adam})
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        self._trainer = setup.build(system, stage, mesh, "data", jnp.float32, 0, 1)
        place = lambda x, like: jax.device_put(np.asarray(x), like.sharding)  # noqa: E731
        self._state = self._trainer.begin(jax.tree.map(place, params, self._trainer.abstract))
        self._batch = self._trainer.put(batch)

    def step(self) -> float:
        self._state, metrics = self._trainer.train_step(self._state, self._batch)
        total, weight = metrics["noise/loss"]
        return float(total / weight)


class Theirs:
    """The same in PyTorch, with the tensors of an export."""

    def __init__(
        self, case: Case, system: MetaQuery, state: dict[str, torch.Tensor], batch: PackedBatch
    ):
        c = case.model
        base = networks.within(state, "model.mllm_backbone.")
        decoder = networks.within(base, "language_model.model.")
        table_ = decoder.pop("embed_tokens.weight")
        self._language = networks.decoder(c.text, decoder).requires_grad_(False)
        self._language.set_attn_implementation("sdpa")
        self._connector = networks.connector(c.connector)
        self._connector.load_state_dict(networks.within(state, "model.connector."))
        self._sana = networks.of_diffusers(
            c.generator, networks.within(state, "model.transformer.")
        )
        first = c.text.vocab_size
        self._table, self._queries = table_[:first], torch.nn.Parameter(table_[first:].clone())
        trained = [*self._connector.parameters(), *self._sana.parameters(), self._queries]
        self._adam = torch.optim.AdamW(trained, RATE, (0.9, 0.95), weight_decay=0.0, fused=True)
        self._rows(case, system, batch)

    def _rows(self, case: Case, system: MetaQuery, batch: PackedBatch) -> None:
        """A prompt a row, padded before it; noise and levels are those that ours draws."""
        prompts, latents, seeds = [], [], []
        slots = batch.images["gen"]
        for row in range(len(batch.tokens)):
            for document in range(1, int(batch.segment[row].max()) + 1):
                own = (batch.segment[row] == document) & (batch.kind[row] == 1)
                prompts.append(batch.tokens[row][own][:-2])
                latents.append(slots.latents[row, document - 1])
                seeds.append(slots.seed[row, document - 1])
        width = max(map(len, prompts))
        self._ids = torch.tensor(
            np.stack([np.pad(p, (width - len(p), 0)) for p in prompts]), dtype=torch.long
        )
        n = case.model.queries
        mask = np.stack([np.arange(width) >= width - len(p) for p in prompts])
        self._mask = torch.from_numpy(np.pad(mask, ((0, 0), (0, n + 1)), constant_values=True))
        clean, seed = jnp.stack(latents), jnp.asarray(np.array(seeds, np.uint32))
        schedule = case.model.schedule
        timestep = system.timesteps(slots.replace(seed=seed))
        level, noise = schedule.level(timestep), draw_noise(seed, clean.shape[1:])
        scaled = system.autoencoder.scaled(clean)
        first = lambda x: torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())  # noqa: E731
        self._noised = first(add_noise(scaled, noise, level))
        self._wanted = first(noise - scaled)
        self._told = torch.from_numpy(np.array(schedule.model_timestep(timestep)))
        self._n = n

    def step(self) -> float:
        words = self._table[self._ids]
        own = torch.cat([self._queries[:1], self._queries[2:]])
        x = torch.cat([words, own[None].expand(len(words), -1, -1)], dim=1)
        hidden = self._language(inputs_embeds=x, attention_mask=self._mask).last_hidden_state
        condition = self._connector(hidden[:, -self._n :])
        found = self._sana(self._noised, condition, self._told).sample
        loss = torch.nn.functional.mse_loss(found, self._wanted)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    case = CASES["quick" if options.quick else "full"]
    system = MetaQuery(case.model)
    params = jax.jit(lambda key: nn.unbox(system.init(key)))(jax.random.key(0))
    batch = batch_of(case, system)
    contenders = {"PyTorch": Theirs(case, system, tensors(case, params), batch)}
    contenders["here"] = Ours(case, system, params, batch)
    losses = {name: one.step() for name, one in contenders.items()}
    off = abs(losses["here"] / losses["PyTorch"] - 1)
    assert off < 1e-4, losses
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, one in contenders.items():
            begun = time.perf_counter()
            one.step()
            seconds[name].append(time.perf_counter() - begun)
    spreads = [Spread.of(seconds[name]).text(3) for name in ("PyTorch", "here")]
    times = ratio(seconds["PyTorch"], seconds["here"]).text(2)
    print(machine())
    print(f"{case.prompts} prompts of up to {case.longest} tokens, {case.model.queries} queries.")
    titles = ("PyTorch, s", "here, s", "ratio", "first losses off by")
    print(table(titles, [(*spreads, f"**{times}**", f"{off:.0e}")]))


def tensors(case: Case, params: dict) -> dict[str, torch.Tensor]:
    """Under the names of an export."""
    flat = tree.flatten(jax.device_get(params))
    (form,) = INTEROP.formats
    found = {}
    for entry in form.table(case.model, pathlib.Path()).entries:
        for name, x in foreign_tensors(entry, [flat[path] for path in entry.ours]):
            found[name] = torch.from_numpy(np.array(x))
    return found


if __name__ == "__main__":
    main()
