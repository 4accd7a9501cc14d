"""FLOPs by part: those that the loop reports, and those that the program has."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems import test_contrastive as contrastive
from tests.systems import test_tokenizer as tokenizer
from tests.systems.test_janus import GEN, SMALL, SYSTEM, UND
from tests.walk import product_flops
from unijax.core import cost, tree
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.system import System
from unijax.data.document import Document, TextSpan
from unijax.models import efficientnet_lite
from unijax.models.efficientnet_lite import EfficientNetLite0
from unijax.models.patchgan import PatchGANConfig
from unijax.models.vqgan import VQConfig
from unijax.plan.work import Work, work_of
from unijax.systems.contrastive import Contrastive
from unijax.systems.janus import Janus
from unijax.systems.tokenizer import Tokenizer, TokenizerConfig
from unijax.train.flops import training_flops
from unijax.train.stage import OptimizerConfig, Rule, StageConfig, match_rules

# Rows

DOCUMENTS = [
    Document("read", (UND[0], TextSpan(tuple(range(7, 13)), (1.0, 0.0) * 3))),
    Document("write", (TextSpan((20, 21), (0.0, 0.0)), GEN[1])),
    Document("text", (TextSpan(tuple(range(7, 27)), (1.0,) * 20),)),
]
ENCODERS_FROZEN = (Rule("vision_model/", frozen=True), Rule("vqmodel/", frozen=True), Rule(""))


def boxed():
    return jax.eval_shape(lambda: SYSTEM.init(jax.random.key(0)))


def rules(*given: Rule) -> dict[str, Rule]:
    shapes = boxed()
    stage = StageConfig("s", 1, given, {"main": OptimizerConfig(1e-3)})
    return match_rules(stage, list(tree.flatten(shapes)))


def work_of_batch(system: System, table: dict[str, Rule], remat: str, batch) -> Work:
    """Of what a batch truly holds, and of what a program works for it: its whole rows and slots."""
    needed = {unit: float(x) for unit, x in system.amounts(batch).items()}
    tokens = float(batch.tokens.size)
    worked = {cost.TOKENS: tokens, cost.CAUSAL: tokens}
    for name, slots in batch.images.items():
        room, n = float(slots.weight.size), SMALL.streams_of(name)[0].tokens
        worked |= {cost.images_of(name): room, cost.tokens_of(name): room * n}
        if slots.pixels is not None:
            worked[cost.encoded_of(name)] = room
    return work_of(system, table, remat, (needed[cost.TOKENS], "token"), needed, worked)


def test_true_flops_are_those_that_the_loop_reports():
    batch = SMALL.batch([DOCUMENTS[:2], DOCUMENTS[2:]])
    decoder_frozen = Rule("language_model/", frozen=True), *ENCODERS_FROZEN
    for given in (ENCODERS_FROZEN, (Rule("vqmodel/", frozen=True), Rule("")), decoder_frozen):
        table = rules(*given)
        found = work_of_batch(SYSTEM, table, "none", batch)
        want = float(training_flops(SYSTEM, batch, table))
        assert found.true == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_executed_flops_of_the_decoder_are_those_of_the_program(remat):
    """Two decoders that differ in the width of their MLP alone: the difference is its products."""
    batch = SMALL.batch([DOCUMENTS[:2], DOCUMENTS[2:]])
    trained = ("language_model", "aligner", "generation_aligner", "generation_head")
    more = dataclasses.replace(SYSTEM.config.text, intermediate_size=96)
    systems = SYSTEM, Janus(dataclasses.replace(SYSTEM.config, text=more))
    found, want = [], []
    for system in systems:
        table = rules(*ENCODERS_FROZEN)
        one = work_of_batch(system, table, remat, batch)
        want.append(one.parts["decoder"].executed)
        found.append(_of(system, remat, trained, batch))
    assert found[1] - found[0] == want[1] - want[0] > 0


def _of(system: Janus, remat: str, trained: tuple[str, ...], batch) -> int:
    system = dataclasses.replace(system, remat=remat)
    boxed = jax.eval_shape(lambda: system.init(jax.random.key(0)))
    flat = {p: x.value for p, x in tree.flatten(boxed).items()}
    params = tree.unflatten({p: jnp.zeros(x.shape, x.dtype) for p, x in flat.items()})
    frozen = frozenset(p for p in flat if p.split("/")[0] not in trained)

    def loss(some):
        sums, _ = system.loss(params | some, batch, jax.random.key(0), jnp.zeros((), int), frozen)
        return sums["text"] + sums["code"]

    return product_flops(jax.make_jaxpr(jax.grad(loss))({t: params[t] for t in trained}).jaxpr)


def test_idle_parameters_are_those_that_the_loss_does_not_read():
    batch = SMALL.batch([DOCUMENTS[:2], DOCUMENTS[2:]])
    work = work_of_batch(SYSTEM, rules(*ENCODERS_FROZEN), "none", batch)
    shapes = {p: x.value for p, x in tree.flatten(boxed()).items()}

    @jax.jit
    def loss(params):
        sums, _ = SYSTEM.loss(params, batch, jax.random.key(0), jnp.zeros((), int), frozenset())
        return sums["text"] + sums["code"]

    def params(is_other) -> dict:
        """Random ones; others where it says so."""
        values = {}
        for path, x in shapes.items():
            rng = np.random.default_rng([is_other(path), *path.encode()])
            values[path] = jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype)
        return tree.unflatten(values)

    idle = lambda path: path.startswith(work.idle)  # noqa: E731
    before = loss(params(lambda path: False))
    assert loss(params(idle)) == before
    for group in {path.split("/")[0] for path in shapes}:
        others = params(lambda path: path.startswith(group + "/") and not idle(path))  # noqa: B023
        assert loss(others) != before, group


def test_a_step_that_trains_nothing_is_refused():
    table = rules(Rule("", frozen=True))
    with pytest.raises(UserError, match=r"stage\.rules: found nothing that trains"):
        work_of(SYSTEM, table, "none", (1.0, "token"), {cost.TOKENS: 1.0})


def test_cached_encoders_are_idle_and_frozen_ones_run_once():
    table = rules(*ENCODERS_FROZEN)
    batch = SMALL.batch([DOCUMENTS[:2], DOCUMENTS[2:]])
    here = work_of_batch(SYSTEM, table, "none", batch)
    assert set(here.forward_only) == {"vision_model", "vqmodel"}
    assert not {"vision_model", "vqmodel"} & set(here.idle)
    cached = SMALL.batch([DOCUMENTS[:2], DOCUMENTS[2:]], SMALL.caches)
    idle = work_of_batch(SYSTEM, table, "none", cached).idle
    assert {"vision_model", "vqmodel"} <= set(idle)
    trains = rules(Rule("vqmodel/", frozen=True), Rule(""))
    work = work_of_batch(SYSTEM, trains, "none", batch)
    assert work.forward_only == ("vqmodel",)


# Single pictures

IMAGES = 3


def abstract(system):
    return nn.unbox(jax.eval_shape(lambda: system.init(jax.random.key(0))))


def rules_of_all(shapes, frozen: tuple[str, ...] = ()) -> dict[str, Rule]:
    return {
        path: Rule("", frozen=path.startswith(frozen)) if frozen else Rule("")
        for path in tree.flatten(shapes)
    }


def zeros_of(shapes):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def gradient_flops(system, shapes, batch, rules) -> int:
    """Of the program that a step differentiates."""
    frozen = frozenset(path for path, rule in rules.items() if rule.frozen)
    held = zeros_of(shapes)

    def loss(trained):
        whole = tree.unflatten(tree.flatten(held) | trained)
        sums, _ = system.loss(whole, batch, jax.random.key(0), jnp.ones((), int), frozen)
        return sum(sums.values())

    trained = {p: x for p, x in tree.flatten(held).items() if p not in frozen}
    return product_flops(jax.make_jaxpr(jax.grad(loss))(trained).jaxpr)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("frozen", [(), ("vision_model/",)])
def test_flops_of_contrastive_towers(remat, frozen):
    system = Contrastive(contrastive.CONFIG, remat=remat)
    shapes = abstract(system)
    rules = rules_of_all(shapes, frozen)
    batch = contrastive.batch([[1], [2], [3]])
    # Texts may be shorter than the tower can read.
    batch = batch.replace(text=batch.text[:, :4])
    needed = {unit: float(x) for unit, x in system.amounts(batch).items()}
    work = work_of(system, rules, remat, (float(IMAGES), "image"), needed)
    assert (work.amount, work.unit) == (float(IMAGES), "image")
    assert work.true == pytest.approx(float(training_flops(system, batch, rules)), rel=1e-6)
    # What stands first, of all that trains, passes no gradient on: patches, or the projection.
    c = system.config.vision
    patches = 2 * IMAGES * c.num_tokens * 3 * c.patch_size**2 * c.hidden_size
    spared = 2 * IMAGES * c.hidden_size * system.config.embed_dim if frozen else patches
    assert gradient_flops(system, shapes, batch, rules) == pytest.approx(
        work.executed - spared, rel=1e-9
    )


TOKENIZER = TokenizerConfig(
    vq=VQConfig(
        image_size=32, base_channels=32, channel_multiplier=(1, 2), num_res_blocks=1,
        latent_channels=32, num_embeddings=128,
    ),
    discriminator=PatchGANConfig(base_channels=32, num_layers=2),
    perceptual_weight=0.0,
    adversarial_start=0,
)  # fmt: skip


@pytest.mark.parametrize("discriminator", [True, False])
def test_flops_of_the_tokenizer(discriminator):
    config = TOKENIZER if discriminator else dataclasses.replace(TOKENIZER, discriminator=None)
    system = Tokenizer(config)
    shapes = abstract(system)
    rules = rules_of_all(shapes)
    batch = ImageBatch(pixels=jnp.zeros((IMAGES, 32, 32, 3), jnp.uint8), weight=jnp.ones(IMAGES))
    work = work_of(system, rules, "none", (float(IMAGES), "image"), {cost.IMAGES: float(IMAGES)})
    assert work.true == pytest.approx(float(training_flops(system, batch, rules)), rel=1e-6)
    if discriminator:
        # Fooled, back to the picture: 2. In its own term, of the picture and the real one: 3 each.
        one = config.discriminator.flops_per_image(32)
        assert work.parts["discriminator"].true == IMAGES * (2 + 2 * 3) * one
    # The program's convolutions reach over edges, and give pixels no gradient.
    found = gradient_flops(system, shapes, batch, rules)
    assert found == pytest.approx(work.executed, rel=0.03)


def test_flops_of_the_perceptual_network(monkeypatch):
    model = EfficientNetLite0(5)
    shape = jnp.zeros((1, 64, 64, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), shape)
    found = product_flops(jax.make_jaxpr(model.apply)(params, shape).jaxpr)
    assert found == efficientnet_lite.flops_per_image(64, 5)

    def load(path, stages):
        return nn.unbox(jax.eval_shape(EfficientNetLite0(stages).init, jax.random.key(0), shape))

    monkeypatch.setattr(efficientnet_lite, "load_weights", lambda *a: zeros_of(load(*a)["params"]))
    system = Tokenizer(dataclasses.replace(tokenizer.CONFIG, discriminator=None))
    rules = rules_of_all(abstract(system), ("perceptual/",))
    part = work_of(system, rules, "none", (2.0, "image"), {cost.IMAGES: 2.0}).parts["perceptual"]
    one = float(efficientnet_lite.flops_per_image(16, 5))
    # Of both pictures and back to one: work beside the model's.
    assert (part.forward, part.true, part.executed) == (0, 0, 2 * 3 * one)
