"""Sizes as published; parameters of the initialised model; FLOPs of the compiled one."""

import functools
import itertools
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.core import cost
from unijax.core.errors import UserError
from unijax.core.record import build
from unijax.core.tree import flatten
from unijax.main.config import load
from unijax.models import llama
from unijax.models.llama import Llama
from unijax.ops.attention import attention
from unijax.scaling.accounting import account, describe
from unijax.scaling.ladder import ladder, rung
from unijax.systems import registry
from unijax.systems.janus import Janus, JanusConfig

GROUPS = {
    "embedding": ("language_model/embed_tokens", "generation_embeddings"),
    "decoder": ("language_model/layers", "language_model/norm"),
    "adaptors": ("aligner", "generation_aligner"),
    "heads": ("language_model/lm_head", "generation_head"),
    "towers": ("vision_model", "vqmodel"),
}


def counted(shapes: dict) -> dict[str, int]:
    found = dict.fromkeys(GROUPS, 0)
    for path, leaf in flatten(shapes).items():
        (group,) = [g for g, starts in GROUPS.items()
                    if any(path == s or path.startswith(s + "/") for s in starts)]  # fmt: skip
        found[group] += math.prod(leaf.shape)
    return found


LADDERS = registry.ladders()
JANUS = [(name, width) for name in ("micro", "janus_pro") for width in LADDERS[name].widths]


@pytest.mark.parametrize(("name", "width"), JANUS)
def test_parameters_are_those_of_the_initialised_system(name, width):
    one = rung(name, width)
    shapes = nn.unbox(jax.eval_shape(Janus(one.config).init, jax.random.key(0)))
    assert account(one, 512).parameters == counted(shapes)


@pytest.mark.parametrize("width", LADDERS["transfusion"].widths)
def test_decoder_of_transfusion_is_the_initialised_one(width):
    one = rung("transfusion", width)
    init = lambda ids: Llama(one.config.text).init(jax.random.key(0), ids, method="init_all")  # noqa: E731
    shapes = nn.unbox(jax.eval_shape(init, jax.ShapeDtypeStruct((1, 1), jnp.int32)))["params"]
    found = {path: math.prod(x.shape) for path, x in flatten(shapes).items()}
    ours = account(one, 4096).parameters
    assert ours["embedding"] == found["embed_tokens/embedding"]
    assert ours["heads"] == found["lm_head/kernel"]
    rest = sum(n for p, n in found.items() if p.startswith(("layers/", "norm/")))
    assert ours["decoder"] == rest


# Transfusion's table 2 with untied embeddings, millions; table 7's extra parameters, percent.
PUBLISHED = {768: (162.4, 0.5), 1024: (373.9, 0.4), 1536: (777.9, 0.4), 2048: (1364.3, 0.4),
             4096: (6738.4, 0.3)}  # fmt: skip


@pytest.mark.parametrize("width", PUBLISHED)
def test_published_totals_of_transfusion(width):
    found = account(rung("transfusion", width), 4096).parameters
    total = found["embedding"] + found["decoder"] + found["heads"]
    millions, percent = PUBLISHED[width]
    assert total / 1e6 == pytest.approx(millions, abs=0.1)
    assert round(100 * found["adaptors"] / total, 1) == percent


def test_published_totals_of_janus_pro():
    totals = [sum(account(r, 4096).parameters.values()) for r in ladder("janus_pro")]
    assert totals == [2_076_636_811, 7_407_773_323]


def test_micro_sizes_span_what_they_should():
    sizes = [account(r, 512).non_embedding for r in ladder("micro")]
    assert sizes == sorted(sizes)
    assert sizes[0] < 30_000
    assert 1_500_000 < sizes[-1] < 1_600_000
    assert max(b / a for a, b in itertools.pairwise(sizes)) < 3


def test_micro_has_the_demos_encoders():
    demo = load(str(pathlib.Path(__file__).parents[2] / "configs" / "janus_demo.py"))
    model = build(JanusConfig, demo.model, "model")
    ours = rung("micro", 96).config
    assert (ours.vision, ours.vq, ours.text.vocab_size) == (
        model.vision, model.vq, model.text.vocab_size,
    )  # fmt: skip


def test_flops_are_those_of_the_compiled_decoder(monkeypatch):
    # XLA counts the body of a loop once, so the layers are unrolled and attention is the one
    # without blocks, which computes all pairs of positions, visible or not. Beside products it
    # counts norms, activations, softmax, rotations.
    reference = functools.partial(attention, implementation="reference")
    monkeypatch.setattr(llama, "attention", reference)
    one = rung("micro", 160)
    text, rows, length = one.config.text, 2, 64
    model = Llama(text, unrolled=True)
    ids = jnp.zeros((rows, length), jnp.int32)

    def forward(params, ids):
        x = model.apply(params, ids, method="embed")
        position = jnp.broadcast_to(jnp.arange(length), ids.shape)
        hidden, _ = model.apply(params, x, position, 0 * ids, position + 1)
        return model.apply(params, hidden, method="logits")

    params = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, method="init_all"))
    cost = jax.jit(forward).lower(nn.unbox(params), ids).compile().cost_analysis()
    found = account(one, length).forward["text"]
    all_pairs = found["attention"] * 2 * length / (length + 1)
    products = rows * length * (found["decoder"] + all_pairs + found["head"])
    assert 1.0 < cost["flops"] / products < 1.06


def test_training_flops_beside_6nd():
    one = rung("transfusion", 4096)
    found = account(one, 4096)
    products = found.training("text", head=False, attention=False)
    # Norms are parameters without products.
    assert products == pytest.approx(6 * found.non_embedding, rel=1e-4)
    with_head = found.training("text", attention=False)
    without_table = found.non_embedding + found.parameters["heads"]
    assert with_head == pytest.approx(6 * without_table, rel=1e-4)
    # Causal attention over 4096 tokens adds 6 x layers x width x 4097.
    added = found.training("text") - with_head
    assert added == 6 * 32 * 4096 * 4097


def test_flops_per_token_add_up_to_those_of_a_batch():
    from tests.scaling.rows import one_document_rows

    one = rung("micro", 64)
    batch, counts = one_document_rows(one.config)
    system = Janus(one.config)
    forward = cost.forward(system.costs, system.amounts(batch))
    context = counts["length"]
    found = account(one, context).forward
    text, und, gen = counts["text"], counts["und"], counts["gen"]
    seen, codes = found["understanding"], found["image codes"]
    want = {
        "decoder": (text + und + gen) * found["text"]["decoder"],
        "text head": counts["text_targets"] * found["text"]["head"],
        "attention": (text + und + gen) * found["text"]["attention"],
        "adaptors": und * seen["adaptor"] + gen * codes["adaptor"],
        "image head": counts["codes"] * codes["head"],
        "SigLIP": und * seen["tower"],
        "VQ": gen * codes["tower"],
    }
    assert {name: float(x) for name, x in forward.items()} == pytest.approx(want, rel=1e-5)


def test_the_ladder_prints_its_arithmetic():
    said = describe(ladder("transfusion"), 4096)
    assert "MLP 8/3 x 768 = 2048, up to a multiple of 256: 2048" in said
    assert "heads 24,577,536" in said  # 32,002 x 768
    assert said.count("6 N decoder") == 5


@pytest.mark.parametrize(("name", "width"), [("nano", 64), ("micro", 40), ("transfusion", 512)])
def test_what_is_on_no_ladder_is_refused(name, width):
    with pytest.raises(UserError):
        rung(name, width)


def test_every_rung_is_on_its_ladder():
    for name, found in LADDERS.items():
        assert [r.config.text.hidden_size for r in ladder(name)] == list(found.widths)
        assert np.all(np.diff(found.widths) > 0)
        assert all(isinstance(r.config, registry.recipe(r.recipe).config) for r in ladder(name))


@pytest.mark.parametrize("name", LADDERS)
def test_parameters_of_every_kind_add_up_to_all(name):
    one = ladder(name)[0]
    system = registry.recipe(one.recipe).system(one.config)
    shapes = nn.unbox(jax.eval_shape(system.init, jax.random.key(0)))
    found, whole = account(one, 512), sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert sum(found.parameters.values()) == whole
    decoders = ("language_model" in shapes) + ("image_twin" in shapes)
    assert found.parameters["decoder"] == decoders * one.config.text.count_parameters()["layers"]
    assert set(found.forward) == set(system.modalities)
