"""A step of LMFusion beside that of its dense decoder, and beside twins that work everywhere.

    python -m bench.lmfusion_step                  # prints tables for docs/benchmarks.md
    python -m bench.lmfusion_step --quick          # tiny sizes: whether it runs

All take steps as `unijax train` does, in float32 on this machine, in turns; ratios are taken round
by round. The dense decoder is Transfusion's of the same size, on the same packed rows: of text, and
of captioned pictures whose latents are at hand. Twins that work everywhere are what one would write
first: both weights at every position, then a choice. Their first loss has to be LMFusion's. Beside
the seconds stands the work of the decoders' products: three passes over the positions that weights
which train are given, two over those of frozen ones.
"""

import argparse
import dataclasses
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bench.janus_report import Spread, machine, ratio, table
from unijax.core.batch import ImageSlots, Kind, PackedBatch
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.llama import Layer, LlamaConfig, attend
from unijax.nn.layers import RMSNorm
from unijax.ops.attention import packed_intervals
from unijax.ops.rope import rope_tables
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.plan.memory import on_device
from unijax.systems.lmfusion import LMFusion, LMFusionConfig
from unijax.systems.transfusion import IMAGE, Transfusion, TransfusionConfig
from unijax.train import setup
from unijax.train.stage import OptimizerConfig, Rule, StageConfig

WORDS = 32  # of a caption
SPECIAL = SpecialIds(bos=0, eos=1, pad=2, boi=3, eoi=4)
DENSE, TWINS, EVERYWHERE = "dense", "twins", "twins everywhere"


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the network, and of a step."""

    text: LlamaConfig
    side: int  # of latents; 2 x 2 are a patch
    rows: int
    row_length: int

    @property
    def tokens(self) -> int:
        """Of a picture."""
        return self.side**2 // 4

    @property
    def pictures(self) -> int:
        """Of a row: as many as it has room for, with their captions."""
        return self.row_length // (self.tokens + WORDS + 4)

    def system(self, kind: type[Transfusion]) -> Transfusion:
        autoencoder = AutoencoderConfig(8 * self.side, 8, (32, 32, 32, 32), 1)
        patches = LatentPatchesConfig(self.side, 8, 2)
        config = LMFusionConfig if issubclass(kind, LMFusion) else TransfusionConfig
        return kind(config(self.text, autoencoder, patches, head_chunk=self.row_length))


CASES = {
    # The decoder of bench/transfusion_step.py, and pictures of 256 tokens as in the paper.
    "full": Case(LlamaConfig(8192, 512, 1408, 8, 8, 8, 64, 1e-5), 32, 2, 1024),
    "quick": Case(LlamaConfig(512, 64, 96, 2, 2, 2, 32, 1e-5), 8, 1, 128),
}


@dataclasses.dataclass(frozen=True)
class Everywhere(LMFusion):
    """LMFusion, but each twin works all positions, and of the two every one has its own."""

    def states(self, params, x, batch, key=None):
        c, here = self.config.text, batch.kind == Kind.GEN
        text, image = params["language_model"], params["image_twin"]
        rope = rope_tables(batch.position, c.head_dim, c.rope_theta)
        seen = packed_intervals(batch.segment, batch.kind, batch.image, self.sees_whole)
        module = Layer(c, **self._kinds)

        def either(layer, method, *args):
            both = [module.apply({"params": p}, *args, None, method=method) for p in layer]
            one = lambda a, b: jnp.where(here.reshape(*here.shape, *[1] * (a.ndim - 2)), b, a)  # noqa: E731
            return jax.tree.map(one, *both)

        def work(x, layer):
            heads, _ = attend(*either(layer, "before", x, rope), None, *seen)
            return either(layer, "feed", either(layer, "after", x, heads)), None

        x, _ = jax.lax.scan(work, x, (text["layers"], image["layers"]))
        last = RMSNorm(c.rms_norm_eps, **self._kinds)
        of_text, of_images = (last.apply({"params": p["norm"]}, x) for p in (text, image))
        return jnp.where(here[..., None], of_images, of_text)


KINDS = {DENSE: Transfusion, TWINS: LMFusion, EVERYWHERE: Everywhere}


def batch_of(case: Case, pictures: bool) -> PackedBatch:
    """Rows filled with text, or with pictures behind their captions and text behind these."""
    rng, system = np.random.default_rng(0), case.system(Transfusion)

    def words(count: int) -> TextSpan:
        return TextSpan(
            tuple(map(int, rng.integers(5, case.text.vocab_size, count))), (1.0,) * count
        )

    rows = []
    for row in range(case.rows):
        documents, left = [], case.row_length
        for i in range(case.pictures if pictures else 0):
            picture = ImageSpan("gen", ImageRef("picture", b"", row * case.pictures + i))
            documents.append(Document(f"{row}/{i}", (words(WORDS), picture)))
            left -= WORDS + case.tokens + 3  # and what it begins with, and marks
        documents.append(Document(f"{row}/text", (words(left - 1),)))
        rows.append(assemble(documents, case.row_length, SPECIAL, system.layout))
    fields = {name: np.stack([getattr(row, name) for row in rows]) for name in FIELDS}
    if not pictures:
        return PackedBatch(**fields, images={})
    one = np.ones((case.rows, case.pictures), np.float32)
    seed = np.arange(one.size, dtype=np.uint32).reshape(one.shape)
    latents = rng.standard_normal((*one.shape, *system.encoded[IMAGE].shape), np.float32)
    slots = ImageSlots(weight=one, seed=seed, t_max=one, latents=latents)
    return PackedBatch(**fields, images={IMAGE: slots})


@dataclasses.dataclass(frozen=True)
class Entry:
    """What takes steps.

    Attributes:
      kind: a key of `KINDS`.
      pictures: whether its rows hold some.
      frozen: groups that do not train.
    """

    kind: str
    pictures: bool
    frozen: tuple[str, ...] = ()

    def work(self, case: Case) -> float:
        """Of the products of the decoder's weights, for that of the dense one."""
        t, slots = case.row_length, case.pictures * case.tokens
        text, image = (2 if g in self.frozen else 3 for g in ("language_model", "image_twin"))
        at = {DENSE: (t, 0), TWINS: (t, slots * self.pictures), EVERYWHERE: (t, t)}[self.kind]
        return (text * at[0] + image * at[1]) / (3 * t)


# The first of each kind of rows is what the others are compared with.
ENTRIES = (
    Entry(DENSE, False),
    Entry(TWINS, False, ("image_twin",)),
    Entry(DENSE, True),
    Entry(TWINS, True),
    Entry(TWINS, True, ("language_model",)),
    Entry(EVERYWHERE, True, ("language_model",)),
)


class Steps:
    """Of an entry, as `unijax train` takes them."""

    def __init__(self, case: Case, entry: Entry, params: dict):
        system = case.system(KINDS[entry.kind])
        frozen = (*entry.frozen, "autoencoder")
        rules = (*(Rule(f"{name}/", frozen=True) for name in frozen), Rule(""))
        adam = OptimizerConfig(learning_rate=1e-4)
        stage = StageConfig("bench", 1000, rules, {"main": adam})
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        trainer = setup.build(system, stage, mesh, "data", jnp.float32, 0)
        place = lambda like, x: jax.device_put(np.asarray(x), like.sharding)  # noqa: E731
        own = {name: params[name] for name in trainer.abstract}
        state = trainer.begin(jax.tree.map(place, trainer.abstract, own))
        self._batch = trainer.put(batch_of(case, entry.pictures))
        self._state, abstract = state, trainer.abstract_state
        self._step = trainer.train_step.lower(state, self._batch).compile()
        self.bytes = {
            "parameters": on_device((abstract.params, abstract.frozen)),
            "optimizer": on_device(abstract.opt_state),
            "temporaries": self._step.memory_analysis().temp_size_in_bytes,
        }

    def step(self) -> tuple[float, float]:
        """Loss, and seconds."""
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, self._batch)
        total, weight = metrics["loss"]
        loss = float(total) / float(weight)
        return loss, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 with --quick")
    options = parser.parse_args()
    case = CASES["quick" if options.quick else "full"]
    params = jax.jit(lambda key: nn.unbox(case.system(LMFusion).init(key)))(jax.random.key(0))
    # Twins that are not each other's copy, and layers behind them that are not small: a position in
    # the wrong one shows in the loss.
    params["image_twin"] = jax.tree.map(lambda x: 0.5 * x, params["image_twin"])
    rng = np.random.default_rng(0)
    rough = lambda x: x + 0.05 * rng.standard_normal(x.shape, np.float32)  # noqa: E731
    params["image_layers"] = jax.tree.map(rough, params["image_layers"])
    steps = {entry: Steps(case, entry, params) for entry in ENTRIES}
    losses = {entry: one.step()[0] for entry, one in steps.items()}
    last = [losses[entry] for entry in ENTRIES[-2:]]
    off = abs(last[0] / last[1] - 1)
    assert off < 1e-4, losses
    seconds: dict[Entry, list[float]] = {entry: [] for entry in ENTRIES}
    for _ in range(options.rounds or (1 if options.quick else 5)):
        for entry, one in steps.items():
            seconds[entry].append(one.step()[1])
    lines = []
    for entry, one in steps.items():
        (base, *_) = (e for e in ENTRIES if e.pictures == entry.pictures)
        of_dense = ratio(seconds[entry], seconds[base]).text(2)
        rows = "pictures" if entry.pictures else "text"
        mib = [f"{x / 2**20:,.0f}" for x in one.bytes.values()]
        lines.append((rows, entry.kind, ", ".join(entry.frozen) or "-",
                      Spread.of(seconds[entry]).text(3), f"**{of_dense}**",
                      f"{entry.work(case):.2f}", *mib))  # fmt: skip
    count = sum(case.text.count_parameters().values())
    print(machine())
    print(
        f"decoder {count / 1e6:.1f}M, {case.rows} rows of {case.row_length} tokens; with pictures "
        f"{case.pictures} of {case.tokens} tokens a row; first losses {off:.0e} apart"
    )
    titles = ("rows", "decoder", "frozen", "seconds a step", "of the dense", "its products",
              *(f"{name}, MiB" for name in steps[ENTRIES[0]].bytes))  # fmt: skip
    print(table(titles, lines))


if __name__ == "__main__":
    main()
