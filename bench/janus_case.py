"""What both contenders are given: one Janus on disk, documents, a dense batch, prompts.

Weights are drawn once, written as a run and exported; documents are cut out of our packed rows, so
that every optimizer step of either side sees the same ones.

    python -m bench.janus_case CASE FOLDER STEPS      # run by bench/janus.py
"""

import dataclasses
import json
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bench.janus_documents import IGNORED, Documents
from unijax.core import tree
from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.record import to_json
from unijax.core.stream import Layout
from unijax.core.system import Params, System, init_shapes
from unijax.core.vocab import SpecialIds
from unijax.data.assemble import FIELDS, assemble
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.data.loader import Loader
from unijax.data.templates import TEMPLATES, Template
from unijax.data.tokenizer import Tokenizer
from unijax.data.tokenizer import load as load_tokenizer
from unijax.interop.exporting import export_checkpoint
from unijax.main.run import RunConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.ops.image import to_signed
from unijax.sample.prompts import drawing, up_to_image
from unijax.systems.janus import Janus, JanusConfig
from unijax.train.loop import LoopConfig
from unijax.train.stage import OptimizerConfig, Rule, StageConfig
from unijax.train.streaming import LazyArray, write_params

TOKENIZER = "assets/tokenizer"
TEMPLATE = "janus_pro"

# Stage 2 of Janus-Pro: the encoders frozen, all else trained.
STAGE = StageConfig(
    name="bench",
    steps=1000,
    rules=(Rule("vision_model/", frozen=True), Rule("vqmodel/", frozen=True), Rule("")),
    optimizers={"main": OptimizerConfig(learning_rate=1e-4)},
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes.

    Attributes:
      model: of the network.
      dense: rows and tokens of the dense batch.
      rows, row_length: of a packed step of the recipe.
      pictures: of a source of the recipe, so that caching them takes seconds.
      steps: of the recipe in a round.
      drawn: pictures at once.
    """

    model: JanusConfig
    dense: tuple[int, int]
    rows: int
    row_length: int
    pictures: int
    steps: int
    drawn: tuple[int, ...]


CASES = {
    # Tower and heads take about the shares that they have in Janus 1B.
    "full": Case(
        JanusConfig(
            text=LlamaConfig(8192, 512, 1408, 8, 8, 8, 64),
            vision=SiglipConfig(64, 8, 256, 1024, 8, 4),
            vq=VQConfig(64, 32, (1, 1, 2, 4), 1, 128, 8, 2048),
        ),
        dense=(8, 256), rows=2, row_length=1024, pictures=512, steps=4, drawn=(1, 8),
    ),
    # For a look at whether it runs.
    "quick": Case(
        JanusConfig(
            text=LlamaConfig(4096, 64, 96, 2, 2, 2, 32),
            vision=SiglipConfig(64, 8, 32, 64, 1, 2),
            vq=VQConfig(64, 32, (1, 1, 1, 1), 0, 32, 8, 64),
        ),
        dense=(2, 128), rows=1, row_length=512, pictures=16, steps=2, drawn=(1, 2),
    ),
}  # fmt: skip


def mixture(pictures: int) -> tuple[GroupConfig, ...]:
    """Stage 2 of Janus-Pro (configs/janus_pro.py) of what is shipped: ratio 2:3:5, in equal parts
    captions, questions and pages to understand, definitions of words, pictures to draw."""

    def source(name: str, task: str, path: str, limit: int = pictures) -> SourceConfig:
        return SourceConfig(name, task, path=path, limit=limit)

    und = (
        source("captions", "describe", "emoji"),
        source("questions", "question", "questions"),
        source("interleaved", "page", "pages", limit=0),
    )
    return (
        GroupConfig("und", 2.0, und),
        GroupConfig("text", 3.0, (source("text", "text", "text", limit=0),)),
        GroupConfig("gen", 5.0, (source("pictures", "generate", "emoji"),)),
    )


def data_config(case: Case) -> DataConfig:
    slots = case.row_length // 64
    return DataConfig(
        groups=mixture(case.pictures),
        row_length=case.row_length,
        rows=case.rows,
        slots={"und": slots, "gen": slots},
        template=TEMPLATE,
    )


def run_config(case: Case, cache_frozen: bool) -> RunConfig:
    """The recipe as `unijax train` takes it."""
    return RunConfig(
        "the recipe of the benchmark", "janus", case.model, data_config(case), STAGE, TOKENIZER,
        LoopConfig(), cache_frozen=cache_frozen,
    )  # fmt: skip


def random_params(system: System, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by path that keep activations of order 1, so that a wrong one shows.

    The codebook has rows of length 1: transformers' encoder does not scale them.
    """
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape, np.float32)
        if path.endswith(("kernel", "lora_a", "lora_b")):
            return x * np.float32(np.prod(shape["layers/" in path : -1]) ** -0.5)
        if path == "vqmodel/quantize/embedding":
            return x / np.linalg.norm(x, axis=-1, keepdims=True)
        if path.endswith("embedding"):
            return x
        return np.asarray(np.float32(0.2) * x + np.float32(path.endswith("scale")))

    shapes = tree.flatten(nn.unbox(init_shapes(system)))
    return {path: draw(path, x.shape) for path, x in sorted(shapes.items())}


def write_case(case: Case, folder: pathlib.Path, steps: int) -> None:
    """Writes `run`, `model` (its export), and for the contenders `recipe-N.npz`, `dense.npz`,
    `products.json` and `prompts.json`.

    Args:
      folder: existing, empty.
      steps: of the recipe whose documents are written.
    """
    tokenizer = load_tokenizer(TOKENIZER)
    run = folder / "run"
    run.mkdir()
    tokenizer.save(run / "tokenizer")
    drawn = random_params(Janus(case.model))
    params = {path: LazyArray(x.shape, x.dtype, lambda x=x: x) for path, x in drawn.items()}
    vqmodel = tree.unflatten(drawn)["vqmodel"]
    config = {
        "system": "janus",
        "model": to_json(case.model),
        "data": {"template": TEMPLATE},
    }
    write_params(run, params, {"stage": "bench", "config": config})
    export_checkpoint(run, folder / "model")
    loader = Loader(data_config(case), Janus(case.model).layout, tokenizer)
    # Random encoders leave near-ties between codes, which rounding decides: losses are compared on
    # the first step, so there both have the same codes.
    first = _with_codes(next(loader), Janus(case.model), {"vqmodel": vqmodel})
    documents_of(first, case.model).save(folder / "recipe-0.npz")
    for step in range(1, steps):
        documents_of(next(loader), case.model).save(folder / f"recipe-{step}.npz")
    loader.close()
    documents_of(dense_batch(case, tokenizer.special), case.model).save(folder / "dense.npz")
    (folder / "products.json").write_text(json.dumps(products(case)))
    words, ids = prompts(case, tokenizer)
    (folder / "prompts.json").write_text(json.dumps({"words": words, "ids": ids}))


def _with_codes(batch: PackedBatch, system: Janus, params: Params) -> PackedBatch:
    """Codes, as the train step finds them, in place of pixels to generate."""
    gen = batch.images["gen"]
    pixels = jnp.asarray(gen.pixels)
    codes = jax.jit(system.encode_codes)(params, to_signed(pixels.reshape(-1, *pixels.shape[2:])))
    codes = np.asarray(codes).reshape(*pixels.shape[:2], -1)
    return batch.replace(images=batch.images | {"gen": gen.replace(pixels=None, codes=codes)})


def documents_of(batch: PackedBatch, model: JanusConfig) -> Documents:
    """The documents of packed rows on the host."""
    out = {name: [] for name in ("ids", "label", "und", "gen")}
    lengths, und, gen = [], [], []
    for row in range(len(batch.tokens)):
        for segment in range(1, int(batch.segment[row].max()) + 1):
            here = batch.segment[row] == segment
            tokens, kind = batch.tokens[row][here], batch.kind[row][here]
            answers = batch.target_kind[row][here] == Target.TEXT
            lengths.append(len(tokens))
            out["ids"].append(np.where(kind == Kind.TEXT, tokens, 0))
            out["label"].append(np.where(answers, batch.target[row][here], IGNORED))
            for name, of_kind, images, n in (
                ("und", Kind.UND, und, model.vision.num_tokens),
                ("gen", Kind.GEN, gen, model.vq.num_tokens),
            ):
                slots = batch.images.get(name)
                out[name].append(kind == of_kind)
                for address in tokens[kind == of_kind][::n]:
                    values = slots.codes if slots.pixels is None else slots.pixels
                    images.append(values[row, address // n])
    size = model.vision.image_size
    coded = batch.images["gen"].codes is not None
    return Documents(
        **{name: np.concatenate(parts) for name, parts in out.items()},
        lengths=np.array(lengths),
        und_pixels=np.stack(und) if und else np.zeros((0, size, size, 3), np.uint8),
        gen_pixels=None if coded else np.stack(gen),
        codes=np.stack(gen) if coded else None,
    )


def dense_batch(case: Case, special: SpecialIds) -> PackedBatch:
    """Rows without padding, one document each: text, the codes of an image, text to the end."""
    rows, length = case.dense
    rng = np.random.default_rng(0)
    vq, layout = case.model.vq, Janus(case.model).layout

    def text(n: int) -> TextSpan:
        ids = rng.integers(0, case.model.text.vocab_size, n)
        return TextSpan(tuple(ids.tolist()), (1.0,) * n)

    def row() -> PackedBatch:
        around = length - vq.num_tokens - 3  # begin of sequence, begin and end of image
        image = ImageSpan("gen", ImageRef("bench", b""))
        spans = text(around // 2), image, text(around - around // 2)
        return assemble([Document("bench", spans)], length, special, layout)

    arrays = [row() for _ in range(rows)]
    codes = rng.integers(0, vq.num_embeddings, (rows, 1, vq.num_tokens), dtype=np.int32)
    slots = ImageSlots(np.ones((rows, 1), np.float32), np.zeros((rows, 1), np.uint32), codes=codes)
    fields = {f: np.stack([getattr(a, f) for a in arrays]) for f in FIELDS}
    return PackedBatch(**fields, images={"gen": slots})


def products(case: Case) -> list[list[int]]:
    """Matrix products of a step on the dense batch: [batch, m, k, n, how often].

    A product with a weight is there three times: forward, and for the gradients of its input and of
    the weight. Attention has two forward and four backward, of half the square as it is causal.
    """
    c, (rows, length), codes = case.model, case.dense, case.model.vq.num_tokens
    text, width = c.text, c.text.hidden_size
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    every, coded = rows * length, rows * codes
    answered = rows * (length - codes - 3)  # text: neither marks nor what precedes them
    weights = [
        (every, width, heads * text.head_dim, text.num_hidden_layers),
        (every, width, kv_heads * text.head_dim, 2 * text.num_hidden_layers),
        (every, heads * text.head_dim, width, text.num_hidden_layers),
        (every, width, text.intermediate_size, 2 * text.num_hidden_layers),
        (every, text.intermediate_size, width, text.num_hidden_layers),
        (answered, width, text.vocab_size, 1),
        (coded, c.vq.embed_dim, width, 1),
        (coded, width, width, 2),  # adaptor, head
        (coded, width, c.vq.num_embeddings, 1),
    ]
    out = []
    for m, k, n, times in weights:
        out += [[1, m, k, n, times], [1, m, n, k, times], [1, k, m, n, times]]
    seen, d, times = length // 2, text.head_dim, text.num_hidden_layers
    for m, k, n in ((length, d, seen), (length, seen, d)):
        out.append([rows * heads, m, k, n, 3 * times])
    return out


def prompts(case: Case, tokenizer: Tokenizer) -> tuple[list[str], list[list[int]]]:
    """Prompts to draw and their ids, all equally long: transformers would pad others."""
    words = [
        f"a {colour} {thing}"
        for thing in ("cat", "tree", "house", "star")
        for colour in ("red", "blue", "green", "black", "white", "yellow")
    ]
    layout = Janus(case.model).layout
    ids = [drawing_ids(w, tokenizer, TEMPLATES[TEMPLATE], layout) for w in words]
    lengths = [len(i) for i in ids]
    usual = max(set(lengths), key=lengths.count)
    equal = [i for i, n in enumerate(lengths) if n == usual][: max(case.drawn)]
    assert len(equal) == max(case.drawn), lengths
    return [words[i] for i in equal], [ids[i] for i in equal]


def drawing_ids(words: str, tokenizer: Tokenizer, template: Template, layout: Layout) -> list[int]:
    """Of a prompt, up to where the image begins."""
    special = tokenizer.special
    asked = up_to_image(drawing(words, tokenizer, template), "gen", layout, special)
    return [special.bos, *(i for span in asked.spans for i in span.ids)]


if __name__ == "__main__":
    write_case(CASES[sys.argv[1]], pathlib.Path(sys.argv[2]), int(sys.argv[3]))
