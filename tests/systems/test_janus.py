"""Janus: packing changes nothing, and the loss is what a slow version says.

Batches are built by the data code, from documents drawn by hypothesis.
"""

import functools
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.walk import product_flops
from unijax.core.batch import PackedBatch
from unijax.core.tree import flatten, unflatten
from unijax.core.vocab import SpecialIds
from unijax.data.batch import BatchMaker, Cached
from unijax.data.config import DataConfig, StreamConfig
from unijax.data.document import Document, GenSpan, ImageRef, TextSpan, UndSpan, document_size
from unijax.data.rows import Placed
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.janus import Janus, JanusConfig
from unijax.train.step import sum_over_parts

SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=4, eoi=5, image_placeholder=6)
SYSTEM = Janus(
    JanusConfig(
        text=LlamaConfig(48, 32, 48, 2, 4, 2, 8),
        vision=SiglipConfig(
            image_size=16, patch_size=8, hidden_size=16, intermediate_size=32,
            num_hidden_layers=1, num_attention_heads=2,
        ),
        vq=VQConfig(
            image_size=4, base_channels=32, channel_multiplier=(1, 1), num_res_blocks=1,
            latent_channels=8, embed_dim=4, num_embeddings=24,
        ),
        head_chunk=16,
    )
)  # fmt: skip
ROWS, T, SLOTS, N = 2, 56, 9, 4  # more images than 9 do not fit in T
DATA = DataConfig(
    groups=(),
    row_length=T,
    rows=ROWS,
    und=StreamConfig(size=16, tokens=N, slots=SLOTS),
    gen=StreamConfig(size=4, tokens=N, slots=SLOTS),
)


def random_params():
    """Weights large enough that a wrong position, mask or address shows in the loss."""
    rng = np.random.default_rng(0)

    def draw(path, shape):
        x = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            return x * np.prod(shape[path.count("layers/") :][:-1], dtype=int) ** -0.5
        return 1 + 0.2 * x if path.endswith("scale") else x

    shapes = flatten(nn.unbox(jax.eval_shape(SYSTEM.init, jax.random.key(0))))
    return unflatten({path: jnp.asarray(draw(path, x.shape)) for path, x in shapes.items()})


PARAMS = random_params()


# Batches


def picture(seed: int, size: int) -> ImageRef:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return ImageRef(f"picture {seed}", file.getvalue(), seed)


UND = [UndSpan(picture(i, 16)) for i in range(4)]
GEN = [GenSpan(picture(i, 4)) for i in range(4)]


def size(document: Document) -> int:
    return document_size(document, DATA.image_tokens).tokens


def batch_of(rows: list[list[Document]], cached=None) -> PackedBatch:
    rows = rows + [[]] * (ROWS - len(rows))
    placed = [[Placed(document, "s", i, 0) for i, document in enumerate(row)] for row in rows]
    return jax.tree.map(jnp.asarray, BatchMaker(DATA, SPECIAL, cached)(placed))


# A text of ids with weights, or the number of a picture in UND + GEN.
texts = st.lists(st.tuples(st.integers(7, 47), st.sampled_from([0.0, 0.5, 1.0])), min_size=1)
spans = st.lists(st.one_of(texts, st.integers(0, 7)), min_size=1, max_size=3)


@st.composite
def packings(draw):
    """Documents, which of them is meant, and for each, in their order, the row it goes to."""
    documents = draw(st.lists(spans, min_size=1, max_size=5))
    row_of = st.lists(st.integers(0, ROWS - 1), min_size=5, max_size=5)
    return documents, draw(st.integers(0, len(documents) - 1)), draw(row_of)


def build(packing) -> tuple[Document, list[list[Document]]]:
    """The document that is meant, and rows that hold it somewhere among others."""
    drawn, chosen, row_of = packing
    documents = [
        Document(
            f"s/0/{i}",
            tuple(
                (UND + GEN)[span] if isinstance(span, int) else TextSpan(*zip(*span[:5]))
                for span in spans
            ),
        )
        for i, spans in enumerate(drawn)
    ]
    rows = [[documents[i] for i in range(len(documents)) if row_of[i] == r] for r in range(ROWS)]
    for row in rows:
        others = [d for d in row if d is not documents[chosen]]
        while sum(map(size, row)) > T:
            row.remove(others.pop())
    return documents[chosen], rows


def objective(trained, batch, frozen=frozenset()):
    """Sum over both heads, as the loop differentiates it."""
    whole = PARAMS | trained
    sums, metrics = SYSTEM.loss(whole, batch, jax.random.key(0), jnp.zeros((), int), frozen)
    return sums["text"] + sums["code"], metrics


@functools.cache
def value_and_gradients():
    program = jax.jit(jax.value_and_grad(objective, has_aux=True))
    trained = {name: p for name, p in PARAMS.items() if name != "vqmodel"}
    return functools.partial(program, trained)


def of_document(batch: PackedBatch, document: Document):
    """Loss and gradients that come from one document of a batch."""
    mine = jnp.where(batch.uid == np.uint32(document.uid), batch.weight, 0)
    (loss, _), grads = value_and_gradients()(batch.replace(weight=mine))
    return loss, grads


def assert_close(found, want, tolerance=1e-5):
    """Leaf by leaf, relative to the largest of the leaf, or to 1/1000 of the largest of all."""
    largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
    want = flatten(want)
    for path, x in flatten(found).items():
        scale = max(np.abs(want[path]).max(), largest / 1000)
        assert np.abs(x - want[path]).max() <= tolerance * scale, path


# What packing may not change


@settings(max_examples=25, deadline=None)
@given(packings())
def test_a_document_does_not_depend_on_what_it_was_packed_with_nor_where(packing):
    document, rows = build(packing)
    found, found_grads = of_document(batch_of(rows), document)
    alone, alone_grads = of_document(batch_of([[document]]), document)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
    if alone:
        assert_close(found_grads, alone_grads)


@settings(max_examples=10, deadline=None)
@given(packings())
def test_cached_features_and_codes_stand_for_pixels(packing):
    _, rows = build(packing)
    (loss, _), grads = value_and_gradients()(batch_of(rows))
    (found, _), found_grads = value_and_gradients()(batch_of(rows, caches()))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    without = {name: value for name, value in grads.items() if name != "vision_model"}
    tower = found_grads.pop("vision_model")
    assert not any(np.any(x) for x in jax.tree.leaves(tower))
    if loss:
        assert_close(found_grads, without)


@functools.cache
def caches():
    """What both encoders make of each picture, filed under its key."""

    def encoded(spans, encode, side):
        pixels = [np.asarray(Image.open(io.BytesIO(s.image.read()))) for s in spans]
        values = encode(PARAMS, jnp.asarray(np.stack(pixels), jnp.float32) / 127.5 - 1)
        return dict(zip([s.image.key for s in spans], np.asarray(values)))

    features = encoded(UND, jax.jit(SYSTEM.encode_und), 16)
    codes = encoded(GEN, jax.jit(SYSTEM.encode_gen), 4)
    return {
        "und": Cached("features", features.__getitem__, (N, 16), np.float32),
        "gen": Cached("codes", codes.__getitem__, (N,), np.int32),
    }


# The loss written out


@functools.cache
def jitted(name):
    return functools.partial(jax.jit(getattr(SYSTEM, name)), PARAMS)


@jax.jit
def states(x):
    """Hidden states `[n, D]` of embeddings in plain causal order."""
    at = jnp.arange(len(x))[None]
    decoder = {"params": PARAMS["language_model"]}
    return SYSTEM.language_model.apply(decoder, x[None], at, at * 0, at + 1)[0][0]


def slow_document(document: Document):
    """(head, nll, correct, weight) of each target, from the document by itself, in a loop."""
    inputs, answers = [], []  # of each token: its embedding; what it answers for the one before

    def text(token, weight=0.0):
        inputs.append(jitted("embed_text")(jnp.asarray(token)))
        answers.append(("text", token, weight))

    text(SPECIAL.bos)
    for span in document.spans:
        if isinstance(span, TextSpan):
            for token, weight in zip(span.ids, span.weights):
                text(token, weight)
            continue
        text(SPECIAL.boi)
        if isinstance(span, UndSpan):
            features = caches()["und"].lookup(span.image.key)
            inputs.extend(jitted("embed_und")(jnp.asarray(features)))
            answers.extend([("text", 0, 0.0)] * N)
        else:
            codes = caches()["gen"].lookup(span.image.key)
            inputs.extend(jitted("embed_codes")(jnp.asarray(codes)))
            answers.extend(("code", code, 1.0) for code in codes)
        text(SPECIAL.eoi)
    empty = [jnp.zeros_like(inputs[0])] * (T - len(inputs))  # after the end: seen by none
    hidden = states(jnp.stack(inputs + empty))
    scores_of = {name: np.asarray(jitted(f"{name}_logits")(hidden)) for name in ("text", "code")}
    found = []
    for t, (head, target, weight) in enumerate(answers[1:]):
        if weight:
            scores = scores_of[head][t].astype(np.float64)
            nll = np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target]
            found.append((head, nll, scores.argmax() == target, weight))
    return found


def test_loss_and_metrics_equal_the_slow_version():
    words = lambda *ids, w=1.0: TextSpan(ids, (w,) * len(ids))  # noqa: E731
    documents = [
        Document("read", (words(9, 10, w=0.0), UND[0], words(11, 12, 13), words(2, w=0.5))),
        Document("write", (words(20, 21, w=0.0), GEN[1])),
        Document("text", (words(30, 31, 32, 33, w=0.5),)),
        Document("both", (UND[1], GEN[0], words(40, 41), UND[2])),
    ]
    answers = {d.name: slow_document(d) for d in documents}
    batch = batch_of([documents[:2], documents[2:]])
    (loss, metrics), _ = value_and_gradients()(batch)
    metrics = metrics | SYSTEM.counts(batch)

    def check(name, found, among, head):
        rows = [a for d in among for a in answers[d] if a[0] == head]
        _, nll, correct, weight = map(np.asarray, zip(*rows))
        np.testing.assert_allclose(found[f"{name}/loss"][0], (nll * weight).sum(), rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}/accuracy"][0], (correct * weight).sum())
        for metric in ("loss", "accuracy"):
            assert found[f"{name}/{metric}"][1] == weight.sum()
        assert found[f"{name}/targets"][0] == len(rows)

    check("text", metrics, ["text"], "text")
    check("understanding", metrics, ["read", "both"], "text")
    check("code", metrics, ["write", "both"], "code")
    total = sum(nll * weight for rows in answers.values() for _, nll, _, weight in rows)
    np.testing.assert_allclose(loss, total, rtol=1e-5)

    # One mean over all targets: both terms have the same denominator.
    weight = sum(weight for rows in answers.values() for *_, weight in rows)
    assert SYSTEM.weights(batch) == {"text": weight, "code": weight}
    tokens = sum(map(size, documents))
    assert metrics["tokens"][0] == tokens
    assert metrics["tokens/und"][0] == 3 * N
    assert metrics["tokens/gen"][0] == 2 * N
    assert metrics["tokens/text"][0] == tokens - 5 * N
    assert metrics["documents"][0] == 4
    assert metrics["padding"] == (ROWS * T - tokens, ROWS * T)


def test_rows_worked_in_parts_give_the_sums_and_gradients_of_all():
    """The parts have other documents, pictures and numbers of targets."""
    words = lambda *ids: TextSpan(ids, (1.0,) * len(ids))  # noqa: E731
    rows = [[Document("read", (words(9, 10), UND[0], words(11)))], [Document("short", (words(5),))]]
    rows += [[]] * (ROWS - 2)
    batch = batch_of(rows)
    want = value_and_gradients()(batch)
    found = jax.jit(functools.partial(sum_over_parts, value_and_gradients(), parts=ROWS))(batch)
    np.testing.assert_allclose(found[0][0], want[0][0], rtol=1e-6)
    for name, pair in want[0][1].items():
        np.testing.assert_allclose(found[0][1][name], pair, rtol=1e-5)
    assert_close(found[1], want[1])


def test_a_batch_without_images():
    text_only = BatchMaker(DataConfig(groups=(), row_length=16, rows=1), SPECIAL)
    document = Document("t", (TextSpan((7, 8, 9), (1.0,) * 3),))
    batch = jax.tree.map(jnp.asarray, text_only([[Placed(document, "s", 0, 0)]]))
    assert batch.und is None
    sums, metrics = jax.jit(SYSTEM.loss, static_argnums=4)(
        PARAMS, batch, jax.random.key(0), 0, frozenset()
    )
    assert sums["text"] > 0
    assert sums["code"] == 0
    assert metrics["text/loss"][1] == 3
    assert SYSTEM.counts(batch)["text/targets"][0] == 3
    assert SYSTEM.weights(batch) == {"text": 3, "code": 3}


# What is not computed


def products(trained, batch, frozen=frozenset(), gradients=True):
    """FLOPs of the products in the program of a step."""
    run = functools.partial(objective, frozen=frozen)
    run = jax.grad(run, has_aux=True) if gradients else run
    return product_flops(jax.make_jaxpr(run)(trained, batch).jaxpr)


def paths(*groups) -> frozenset[str]:
    return frozenset(p for p in flatten(PARAMS) if p.split("/")[0] in groups)


def part(*groups):
    return {name: PARAMS[name] for name in groups}


def test_a_frozen_encoder_costs_its_forward_pass_alone():
    trained = part("language_model", "aligner", "generation_aligner", "generation_head")
    rows = [[Document("d", (UND[0], GEN[0]))]]
    pixels, cached = batch_of(rows), batch_of(rows, caches())
    encoders = paths("vision_model", "vqmodel")
    forward = products({}, pixels, gradients=False) - products({}, cached, gradients=False)
    assert forward > 0
    extra = products(trained, pixels, encoders) - products(trained, cached, encoders)
    assert extra == forward
    tower = part("vision_model")
    assert products(trained | tower, pixels) - products(trained, pixels, encoders) > 0


@pytest.mark.parametrize("head", ["language_model/lm_head", "generation_head"])
def test_a_frozen_head_costs_no_gradient_of_its_own(head):
    batch = batch_of([[Document("d", (UND[0], GEN[0], TextSpan((9,), (1.0,))))]], caches())
    trained = part("aligner", "generation_aligner")
    others = paths(*set(PARAMS) - set(trained))
    mine = frozenset(p for p in others if p.startswith(head))
    assert mine
    less = products(trained, batch, others)
    more = products(trained, batch, others - mine)
    # The gradient of a kernel takes as many products as the layer itself, for each chunk.
    kernels = [p for p in mine if p.endswith("kernel")]
    chunk = SYSTEM.config.head_chunk
    want = sum(2 * chunk * flatten(PARAMS)[k].size for k in kernels)
    assert more - less == want


def test_a_head_of_which_one_layer_trains_gets_its_gradient():
    batch = batch_of([[Document("d", (GEN[0],))]], caches())
    frozen = paths(*PARAMS) - {"generation_head/proj_out/kernel"}
    trained = part("generation_head")
    grads, _ = jax.jit(jax.grad(functools.partial(objective, frozen=frozen), has_aux=True))(
        trained, batch
    )
    assert np.any(grads["generation_head"]["proj_out"]["kernel"])


# FLOPs


def test_forward_flops_count_what_the_batch_needs():
    documents = [
        Document("read", (UND[0], TextSpan((11, 12, 13), (1.0, 0.0, 1.0)))),
        Document("write", (TextSpan((20, 21), (0.0, 0.0)), GEN[1])),
        Document("both", (UND[1], GEN[0], UND[2])),
    ]
    pixels, cached = (batch_of([documents[:2], documents[2:]], c) for c in (None, caches()))
    found = {name: float(x) for name, x in SYSTEM.forward_flops(pixels).items()}
    text = SYSTEM.config.text
    lengths = [size(d) for d in documents]
    p = PARAMS

    def flops_of(fn, shape, dtype=jnp.float32):
        return product_flops(jax.make_jaxpr(fn)(p, jnp.zeros(shape, dtype)).jaxpr)

    assert found["language_model"] == (
        sum(lengths) * text.flops_per_token() + flops_of(SYSTEM.text_logits, (2, 32))
    )
    assert found["attention"] == sum(n * (n + 1) // 2 for n in lengths) * text.flops_per_pair()
    assert found["aligner"] == flops_of(SYSTEM.embed_und, (3 * N, 16))
    assert found["generation_aligner"] == flops_of(SYSTEM.embed_codes, (2 * N,), jnp.int32)
    assert found["generation_head"] == flops_of(SYSTEM.code_logits, (2 * N, 32))
    assert found["vision_model"] == flops_of(SYSTEM.encode_und, (3, 16, 16, 3))
    assert found["vqmodel"] == 2 * SYSTEM.config.vq.encode_flops_per_image()
    assert SYSTEM.forward_flops(cached).keys() == found.keys() - {"vision_model", "vqmodel"}

    # As most count: rows without documents, padding in them.
    as_causal = {name: float(x) for name, x in SYSTEM.forward_flops(pixels, True).items()}
    seen, all_causal = sum(n * (n + 1) // 2 for n in lengths), ROWS * T * (T + 1) // 2
    more = as_causal.pop("attention") - found.pop("attention")
    assert more == (all_causal - seen) * text.flops_per_pair() > 0
    assert as_causal == found
