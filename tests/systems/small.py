"""Small systems to test: parameters that show mistakes, documents, batches, steps."""

import dataclasses
import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from unijax.core import axes, tree
from unijax.core.batch import ImageBatch, PackedBatch
from unijax.core.stream import Stream
from unijax.core.system import Metrics, Params, RowSystem, Sums, System, init_shapes
from unijax.core.vocab import SpecialIds
from unijax.data.batch import BatchMaker, Cached
from unijax.data.config import DataConfig, preparation
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan, document_size
from unijax.data.rows import Placed
from unijax.ops.image import to_signed
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.setup import Trainer
from unijax.train.stage import OptimizerConfig, Rule, StageConfig
from unijax.train.state import TrainState

SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=4, eoi=5, image_placeholder=6)
FIRST_WORD = 7  # ids before it are special
B1 = 0.9
# No clipping: the first moment after a step is a share of the gradient.
ADAM = OptimizerConfig(learning_rate=1e-3, b1=B1, clip_norm=1e30)


def random_params(system: System) -> Params:
    """Weights large enough that a wrong position, mask or address shows in the loss."""
    rng = np.random.default_rng(0)

    def draw(path, box):
        x = rng.standard_normal(box.value.shape, np.float32)
        if path.endswith("kernel"):
            of_a_layer = [n for n, name in zip(x.shape, box.names) if name != axes.LAYERS]
            return x * np.prod(of_a_layer[:-1], dtype=int) ** -0.5
        return 1 + 0.2 * x if path.endswith("scale") else x

    boxed = tree.flatten(init_shapes(system))
    return tree.unflatten({path: jnp.asarray(draw(path, box)) for path, box in boxed.items()})


def assert_close(found: Params, want: Params, tolerance: float = 1e-5) -> None:
    """Leaf by leaf, relative to the largest of the leaf, or to 1/1000 of the largest of all."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
    found, want = tree.flatten(found), tree.flatten(want)
    assert found.keys() == want.keys()
    for path, x in found.items():
        scale = max(np.abs(want[path]).max(), largest / 1000)
        assert np.abs(x - want[path]).max() <= tolerance * scale, path


@dataclasses.dataclass(frozen=True)
class Small:
    """A system of a few thousand parameters.

    Attributes:
      rules: of groups that no stage trains, or that another optimizer does; what is left trains
        with "main".
    """

    system: System
    rules: tuple[Rule, ...] = ()

    @functools.cached_property
    def params(self) -> Params:
        return random_params(self.system)

    @property
    def stage(self) -> StageConfig:
        names = {"main"} | {rule.optimizer for rule in self.rules}
        return StageConfig("stage", 10, (*self.rules, Rule("")), dict.fromkeys(names, ADAM))

    def host_batches(self) -> list[Any]:
        """Of eight rows or pictures each, and of one shape; the first has some that are empty."""
        raise NotImplementedError

    # Losses

    def loss(
        self, params: Params, batch: Any, key: jax.Array | None, frozen: frozenset[str]
    ) -> tuple[Sums, Metrics]:
        """Of a late step."""
        return self.system.loss(params, batch, key, jnp.full((), 1_000_000), frozen)

    @property
    def trained(self) -> Params:
        """The parameters that get gradients, were nothing frozen."""
        never = {rule.pattern.rstrip("/") for rule in self.rules if rule.frozen}
        return {name: p for name, p in self.params.items() if name not in never}

    def objective(
        self, trained: Params, batch: Any, frozen: frozenset[str] = frozenset()
    ) -> tuple[jax.Array, Metrics]:
        """Sum over all terms."""
        sums, metrics = self.loss(self.params | trained, batch, jax.random.key(0), frozen)
        return sum(sums.values()), metrics

    @functools.cached_property
    def value_and_gradients(self) -> Callable[[Any], Any]:
        """Compiled: batch -> (objective, metrics), gradients."""
        program = jax.jit(jax.value_and_grad(self.objective, has_aux=True))
        return functools.partial(program, self.trained)

    def paths(self, *groups: str) -> frozenset[str]:
        """Of the parameters of top-level groups."""
        return frozenset(p for p in tree.flatten(self.params) if p.split("/")[0] in groups)

    # Steps

    def trainer(
        self, stage: StageConfig, config: MeshConfig, devices: list, parts: int = 1
    ) -> Trainer:
        mesh = make_mesh(config, devices)
        return setup.build(self.system, stage, mesh, config.table, jnp.float32, 0, parts)

    def begin(self, trainer: Trainer) -> TrainState:
        """A fresh state with the parameters of the tests, placed as the trainer has them."""
        place = lambda x, like: jax.device_put(np.asarray(x), like.sharding)  # noqa: E731
        return trainer.begin(jax.tree.map(place, self.params, trainer.abstract))

    @functools.cached_property
    def partly_frozen(self) -> Trainer:
        """Every second parameter is frozen; an average is kept."""
        stage = self.stage
        paths = list(tree.flatten(self.params))[::2]
        frozen = tuple(Rule(f"{re.escape(path)}$", frozen=True) for path in paths)
        # A rule that is left nothing to decide would be refused.
        rest = [path for path in tree.flatten(self.params) if path not in paths]
        kept = [r for r in self.rules if any(re.match(r.pattern, path) for path in rest)]
        stage = dataclasses.replace(stage, rules=(*frozen, *kept, Rule("")), ema_decay=0.9)
        return self.trainer(stage, MeshConfig(), jax.devices()[:1])


def gradients(state: TrainState) -> dict[str, Params]:
    """Of the first step, by optimizer."""
    return {
        name: jax.tree.map(lambda m: m / (1 - B1), s.mu)
        for name, states in state.opt_state.items()
        for s in states
        if isinstance(s, optax.ScaleByAdamState)
    }


class Batches:
    """An endless stream of a few batches, whose place can be saved."""

    metrics: dict = {}  # noqa: RUF012
    documents: dict = {}  # noqa: RUF012

    def __init__(self, batches: Sequence[Any]):
        self._batches, self._drawn = batches, 0

    def __next__(self) -> Any:
        self._drawn += 1
        return self._batches[(self._drawn - 1) % len(self._batches)]

    def get_state(self) -> dict:
        return {"drawn": self._drawn}

    def set_state(self, state: dict) -> None:
        self._drawn = state["drawn"]


# Rows


def picture(seed: int, size: int) -> ImageRef:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return ImageRef(f"picture {seed}", file.getvalue(), seed)


def words(*ids: int, weight: float = 1.0) -> TextSpan:
    return TextSpan(ids, (weight,) * len(ids))


@dataclasses.dataclass(frozen=True)
class SmallRows(Small):
    """A small system of packed rows.

    Attributes:
      system: in float32, with pictures of a few tokens.
      length: T, with room for four images and some words.
      rows: of a batch where nothing else is said, 2 or more.
      last_word: ids from `FIRST_WORD` to this are words.
      pictures: of each role.
    """

    system: RowSystem
    length: int = 56
    rows: int = 2
    special: SpecialIds = SPECIAL
    last_word: int = 47
    pictures: int = 4

    @functools.cached_property
    def data(self) -> DataConfig:
        """Slots for more images than rows have room for."""
        streams = self.system.layout.streams
        slots = {s.slots: self.length // min(x.length for x in streams) for s in streams}
        return DataConfig(groups=(), row_length=self.length, rows=self.rows, slots=slots)

    @functools.cached_property
    def images(self) -> dict[str, list[ImageSpan]]:
        """Some pictures of each role, all of them different."""
        found = {}
        for i, stream in enumerate(self.system.layout.streams):
            seeds = range(i * self.pictures, (i + 1) * self.pictures)
            refs = [picture(seed, stream.size) for seed in seeds]
            found[stream.role] = [ImageSpan(stream.role, ref) for ref in refs]
        return found

    @functools.cached_property
    def caches(self) -> dict[str, Cached]:
        """What the encoders make of each picture, filed under its key."""
        found = {}
        for name, how in self.system.encoded.items():
            encode = functools.partial(jax.jit(getattr(self.system, how.method)), self.params)
            values = {}
            for stream in self.streams_of(name):
                refs = [span.image for span in self.images[stream.role]]
                prepared = jnp.stack([preparation(self.data, stream)(ref) for ref in refs])
                values |= zip([r.key for r in refs], np.asarray(encode(to_signed(prepared))))
            lookup = values.__getitem__
            found[name] = Cached(how.field, lookup, how.shape, np.dtype(how.dtype))
        return found

    def streams_of(self, slots: str) -> list[Stream]:
        return [stream for stream in self.system.layout.streams if stream.slots == slots]

    def size(self, document: Document) -> int:
        return document_size(document, self.system.layout).tokens

    def host_batch(self, rows: list[list[Document]], cached: Any = None) -> PackedBatch:
        """Of the rows, and of empty ones up to their number."""
        rows = rows + [[]] * (self.rows - len(rows))
        placed = [[Placed(document, "s", i, 0) for i, document in enumerate(row)] for row in rows]
        return BatchMaker(self.data, self.system.layout, self.special, cached)(placed)

    def batch(self, rows: list[list[Document]], cached: Any = None) -> PackedBatch:
        return jax.tree.map(jnp.asarray, self.host_batch(rows, cached))

    def documents(self) -> dict[str, Document]:
        """With an image ("read", "made"), two ("both") or none ("text": a row with "made")."""
        first, *_, last = [*self.images.values()] * 2
        ids = lambda n: tuple(FIRST_WORD + i % 16 for i in range(n))  # noqa: E731
        made = Document("made", (words(*ids(6), weight=0.0), last[1]))
        most = self.length - self.size(made) - self.system.layout.begins
        return {
            "read": Document("read", (first[0], TextSpan(ids(8), (1.0, 0.5) * 4))),
            "made": made,
            "both": Document("both", (first[1], last[2], words(*ids(2)))),
            "text": Document("text", (words(*ids(most)),)),
        }

    def host_batches(self) -> list[PackedBatch]:
        """Rows that differ in length and kind; the last ones are empty."""
        d = self.documents()
        read, made, both, text = (d[name] for name in ("read", "made", "both", "text"))
        rows = [[read, made], [both], [text], [read, made, both], [both], [text, made]]
        eight = dataclasses.replace(self, rows=8)
        return [eight.host_batch(rows), eight.host_batch([[made], [both, read], *rows[::-1]])]

    def of_document(self, batch: PackedBatch, document: Document) -> tuple[jax.Array, Params]:
        """Loss and gradients that come from one document of a batch: its positions, its images."""
        own = np.asarray(batch.uid) == np.uint32(document.uid)
        images = {}
        for name, slots in batch.images.items():
            weight = np.zeros(slots.weight.shape, np.float32)
            for stream in self.streams_of(name):
                rows, at = np.nonzero(own & (np.asarray(batch.kind) == stream.kind))
                weight[rows, np.asarray(batch.tokens)[rows, at] // stream.tokens] = 1
            images[name] = slots.replace(weight=jnp.asarray(weight))
        mine = batch.replace(weight=jnp.where(own, batch.weight, 0), images=images)
        (loss, _), grads = self.value_and_gradients(mine)
        return loss, grads


# Single pictures


@dataclasses.dataclass(frozen=True)
class SmallPictures(Small):
    """A small system of single pictures.

    Attributes:
      size: side of the pictures.
      text_length, vocab: of their captions; 0 for none.
    """

    size: int = 16
    text_length: int = 0
    vocab: int = 0

    def host_batch(self, weight: Sequence[float], seed: int = 0) -> ImageBatch:
        """A picture for each weight, with a caption of its own length."""
        rng, n = np.random.default_rng(seed), len(weight)
        batch = ImageBatch(
            pixels=rng.integers(0, 256, (n, self.size, self.size, 3), dtype=np.uint8),
            weight=np.asarray(weight, np.float32),
            seed=rng.integers(0, 2**32, n, dtype=np.uint32),
        )
        if not self.text_length:
            return batch
        length = rng.integers(0, self.text_length + 1, n).astype(np.int32)
        text = rng.integers(0, self.vocab, (n, self.text_length), dtype=np.int32)
        text[np.arange(self.text_length) >= length[:, None]] = 0
        return batch.replace(text=text, text_length=length)

    def batch(self, weight: Sequence[float], seed: int = 0) -> ImageBatch:
        return jax.tree.map(jnp.asarray, self.host_batch(weight, seed))

    def host_batches(self) -> list[ImageBatch]:
        return [self.host_batch((1,) * 7 + (0,)), self.host_batch((1,) * 8, seed=1)]
