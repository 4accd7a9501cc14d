"""Janus: packing changes nothing, and the loss is what a slow version says.

Batches are built by the data code. What every decoder must do is in the suite.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SPECIAL, SmallRows, words
from tests.systems.system_suite import LONGEST
from tests.walk import product_flops
from unijax.core import cost
from unijax.core.system import init_shapes
from unijax.core.tree import flatten
from unijax.data.batch import BatchMaker
from unijax.data.config import DataConfig
from unijax.data.document import Document, TextSpan
from unijax.data.rows import Placed
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.janus import RECIPE, SIZES, Janus, JanusConfig
from unijax.train.stage import Rule

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
N = 4
SMALL = SmallRows(SYSTEM, rules=(Rule("vqmodel/", frozen=True),))
ROWS, T, PARAMS = SMALL.rows, SMALL.length, SMALL.params
UND, GEN = SMALL.images["und"], SMALL.images["gen"]


class TestJanus(DecoderSuite):
    small = SMALL
    recipe = RECIPE
    long = LONGEST - {
        "test_greedy_answers_are_those_of_teacher_forcing",
        "test_a_batch_of_text_alone_needs_no_images",
    }
    edges = 0.03


# Sizes

# Janus-Pro's blocks, parameters at 1B and at 7B.
BLOCKS = {
    "vision_model": (303_688_704, 303_688_704),
    "aligner": (6_295_552, 20_979_712),
    "vqmodel": (71_883_403, 71_883_403),
    "generation_embeddings": (131_072, 131_072),
    "generation_aligner": (4_214_784, 16_818_176),
    "generation_head": (37_767_168, 83_906_560),
    "language_model without lm_head": (1_442_940_928, 6_490_935_296),
    "language_model/lm_head": (209_715_200, 419_430_400),
}
TOTALS = (2_076_636_811, 7_407_773_323)
COLUMNS = {"janus_1b": 0, "janus_pro_1b": 0, "janus_pro_7b": 1}  # of the above


@pytest.mark.parametrize("size", COLUMNS)
def test_counts_of_the_published_sizes(size):
    found = dict.fromkeys(BLOCKS, 0)
    for path, box in flatten(init_shapes(Janus(SIZES[size]))).items():
        group = path.split("/")[0]
        if group == "language_model":
            head = path.startswith("language_model/lm_head/")
            group = "language_model/lm_head" if head else "language_model without lm_head"
        found[group] += math.prod(box.value.shape)
    column = COLUMNS[size]
    assert found == {block: counts[column] for block, counts in BLOCKS.items()}
    assert sum(found.values()) == TOTALS[column]


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
        if span.role == "und":
            features = SMALL.caches["und"].lookup(span.image.key)
            inputs.extend(jitted("embed_und")(jnp.asarray(features)))
            answers.extend([("text", 0, 0.0)] * N)
        else:
            codes = SMALL.caches["gen"].lookup(span.image.key)
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
    documents = [
        Document(
            "read", (words(9, 10, weight=0.0), UND[0], words(11, 12, 13), words(2, weight=0.5))
        ),
        Document("write", (words(20, 21, weight=0.0), GEN[1])),
        Document("text", (words(30, 31, 32, 33, weight=0.5),)),
        Document("both", (UND[1], GEN[0], words(40, 41), UND[2])),
    ]
    answers = {d.name: slow_document(d) for d in documents}
    batch = SMALL.batch([documents[:2], documents[2:]])
    (loss, metrics), _ = SMALL.value_and_gradients(batch)
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
    tokens = sum(map(SMALL.size, documents))
    assert metrics["tokens"][0] == tokens
    assert metrics["tokens/und"][0] == 3 * N
    assert metrics["tokens/gen"][0] == 2 * N
    assert metrics["tokens/text"][0] == tokens - 5 * N
    assert metrics["documents"][0] == 4
    assert metrics["padding"] == (ROWS * T - tokens, ROWS * T)


def test_a_batch_without_images():
    text_only = BatchMaker(DataConfig(groups=(), row_length=16, rows=1), SYSTEM.layout, SPECIAL)
    document = Document("t", (TextSpan((7, 8, 9), (1.0,) * 3),))
    batch = jax.tree.map(jnp.asarray, text_only([[Placed(document, "s", 0, 0)]]))
    assert batch.images == {}
    sums, metrics = jax.jit(SYSTEM.loss, static_argnums=4)(
        PARAMS, batch, jax.random.key(0), 0, frozenset()
    )
    assert sums["text"] > 0
    assert sums["code"] == 0
    assert metrics["text/loss"][1] == 3
    assert SYSTEM.counts(batch)["text/targets"][0] == 3
    assert SYSTEM.weights(batch) == {"text": 3, "code": 3}


# What is not computed


def products(trained, batch, frozen):
    """FLOPs of the products in the program of a step."""
    run = jax.grad(functools.partial(SMALL.objective, frozen=frozen), has_aux=True)
    return product_flops(jax.make_jaxpr(run)(trained, batch).jaxpr)


def part(*groups):
    return {name: PARAMS[name] for name in groups}


@pytest.mark.parametrize("head", ["language_model/lm_head", "generation_head"])
def test_a_frozen_head_costs_no_gradient_of_its_own(head):
    batch = SMALL.batch([[Document("d", (UND[0], GEN[0], TextSpan((9,), (1.0,))))]], SMALL.caches)
    trained = part("aligner", "generation_aligner")
    others = SMALL.paths(*set(PARAMS) - set(trained))
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
    batch = SMALL.batch([[Document("d", (GEN[0],))]], SMALL.caches)
    frozen = SMALL.paths(*PARAMS) - {"generation_head/proj_out/kernel"}
    trained = part("generation_head")
    grads, _ = jax.jit(jax.grad(functools.partial(SMALL.objective, frozen=frozen), has_aux=True))(
        trained, batch
    )
    assert np.any(grads["generation_head"]["proj_out"]["kernel"])


# FLOPs


def test_forward_flops_count_what_the_batch_needs():
    """Part by part, each against the program of that part alone."""
    documents = [
        Document("read", (UND[0], TextSpan((11, 12, 13), (1.0, 0.0, 1.0)))),
        Document("write", (TextSpan((20, 21), (0.0, 0.0)), GEN[1])),
        Document("both", (UND[1], GEN[0], UND[2])),
    ]
    rows = [documents[:2], documents[2:]]
    pixels, cached = (SMALL.batch(rows, c) for c in (None, SMALL.caches))

    def forward(batch, as_causal=False):
        found = cost.forward(SYSTEM.costs, SYSTEM.amounts(batch, as_causal))
        return {name: float(x) for name, x in found.items()}

    found = forward(pixels)
    text = SYSTEM.config.text
    lengths = list(map(SMALL.size, documents))

    def flops_of(fn, shape, dtype=jnp.float32):
        return product_flops(jax.make_jaxpr(fn)(PARAMS, jnp.zeros(shape, dtype)).jaxpr)

    assert found["decoder"] == sum(lengths) * text.flops_per_token()
    assert found["text head"] == flops_of(SYSTEM.text_logits, (2, 32))
    assert found["attention"] == sum(n * (n + 1) // 2 for n in lengths) * text.flops_per_pair()
    assert found["adaptors"] == (
        flops_of(SYSTEM.embed_und, (3 * N, 16)) + flops_of(SYSTEM.embed_codes, (2 * N,), jnp.int32)
    )
    assert found["image head"] == flops_of(SYSTEM.code_logits, (2 * N, 32))
    assert found["SigLIP"] == flops_of(SYSTEM.encode_und, (3, 16, 16, 3))
    assert found["VQ"] == 2 * SYSTEM.config.vq.encode_flops_per_image()
    assert forward(cached).keys() == found.keys() - {"SigLIP", "VQ"}

    # As most count: rows without documents, padding in them.
    as_causal = forward(pixels, True)
    seen, all_causal = sum(n * (n + 1) // 2 for n in lengths), ROWS * T * (T + 1) // 2
    more = as_causal.pop("attention") - found.pop("attention")
    assert more == (all_causal - seen) * text.flops_per_pair() > 0
    assert as_causal == found
