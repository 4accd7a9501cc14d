"""MetaQuery: what every decoder must do, what stays frozen, what is drawn of which prompt."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import MARKS, long
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, assert_close, words
from unijax.core import tree
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.data.document import Document, ImageSpan
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.connector import ConnectorConfig
from unijax.models.dc_autoencoder import DCAutoencoderConfig
from unijax.models.llama import LlamaConfig
from unijax.models.sana import SanaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import EPSILON, FLOW, NoiseSchedule, add_noise, draw_noise
from unijax.parallel.sharding import MeshConfig
from unijax.sample.prompts import Prompting, up_to_image
from unijax.sample.queries import draw_with_queries
from unijax.systems.llava import Llava, LlavaConfig
from unijax.systems.metaquery import RECIPE, SIZES, STABLE_DIFFUSION, MetaQuery, MetaQueryConfig
from unijax.train.stage import Rule

TEXT = LlamaConfig(48, 32, 48, 2, 4, 2, 8, 1e-5)
KL = AutoencoderConfig(8, 4, (32, 32), 1, scaling_factor=0.7)
UNET = UNetConfig(4, 4, 4, (32, 32), 1, (True, False), True, 24, 4)
# Of two heads, for of eight channels none may pass the ReLU, and little divides by little.
SANA = SanaConfig(4, 4, 4, 2, 2, 16, 2, 16, 24)
CONFIG = MetaQueryConfig(
    TEXT, SiglipConfig(8, 4, 16, 32, 2, 2), begins=True, head_chunk=16, queries=4, marks=(4, 5),
    connector=ConnectorConfig(32, 24, 2, 8, scale=1.5), generator=SANA, autoencoder=KL, steps=4,
)  # fmt: skip
SYSTEM = MetaQuery(CONFIG)
BASE = ("language_model", "vision_model", "aligner")


class TestSana(DecoderSuite):
    small = SmallRows(SYSTEM, rules=(Rule("autoencoder/", frozen=True),))
    recipe = RECIPE
    edges = 0.03
    # The autoencoder spreads its images; the queries of a picture are found among all positions,
    # and its condition is read whole by a generator that is not split along it.
    may_gather = (*DecoderSuite.may_gather, "concatenate", "Connector", "Sana")
    may_gather_positions = (*DecoderSuite.may_gather_positions, "sharding_constraint")

    def forward_flops(self, batch) -> int:
        """With depthwise convolutions, which are written as shifted products."""
        each = 2 * SANA.sample_size**2 * 9 * 2 * SANA.hidden
        pictures = batch.images["gen"].weight.size
        return super().forward_flops(batch) + pictures * SANA.num_layers * each


@long
class TestUNet(DecoderSuite):
    """Noise in place of a flow."""

    small = SmallRows(
        MetaQuery(
            dataclasses.replace(
                CONFIG, generator=UNET, schedule=STABLE_DIFFUSION, prediction=EPSILON
            )
        ),
        rules=(Rule("autoencoder/", frozen=True),),
    )
    recipe = RECIPE
    edges = 0.03
    edges_in_rows = 0.03
    examples = 10
    may_gather = (*DecoderSuite.may_gather, "concatenate", "Connector", "UNet")
    may_gather_positions = (*DecoderSuite.may_gather_positions, "sharding_constraint")

    def sizes(self):
        return {}  # they are those of the other


SMALL = TestSana.small
PARAMS = SMALL.params
DOCUMENTS = SMALL.documents()
ROWS = [[DOCUMENTS["read"], DOCUMENTS["made"]], [DOCUMENTS["both"]]]


# What is frozen


def test_the_base_says_what_it_says_alone_to_the_bit():
    fields = {f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(LlavaConfig)}
    base = Llava(LlavaConfig(**fields))
    small = SmallRows(base)
    rows = [[DOCUMENTS["read"]], [DOCUMENTS["text"]]]
    params = {name: PARAMS[name] for name in BASE}

    @functools.partial(jax.jit, static_argnums=0)
    def logits(system, params, batch):
        hidden = system.states(params, system.embed(params, batch), batch)
        return system.text_logits(params, hidden)

    want = logits(base, params, small.batch(rows))
    found = logits(SYSTEM, PARAMS, SMALL.batch(rows).replace(images=small.batch(rows).images))
    np.testing.assert_array_equal(found, want)


@long
def test_with_a_frozen_base_loss_and_gradients_are_those_of_the_whole_decoder():
    """Of queries, marks, connector and generator; documents of one row, and empty slots."""
    batch = SMALL.batch(ROWS)
    learned = {n: p for n, p in PARAMS.items() if n not in (*BASE, "autoencoder")}

    def of(frozen):
        def noise(learned):
            sums, metrics = SMALL.loss(PARAMS | learned, batch, None, frozen)
            return sums["noise"], metrics["noise/loss"]

        return jax.jit(jax.value_and_grad(noise, has_aux=True))(learned)

    (found, of_pictures), grads = of(SMALL.paths(*BASE))
    (want, as_well), whole = of(frozenset())
    np.testing.assert_allclose(found, want, rtol=1e-5)
    np.testing.assert_allclose(of_pictures, as_well, rtol=1e-5)
    assert_close(grads, whole, 1e-4)
    # The mark at the end is seen by no query.
    assert not np.any(grads["queries"]["marks"][1])
    assert np.abs(grads["queries"]["marks"][0]).min() > 0
    assert np.abs(grads["queries"]["embedding"]).max(axis=1).min() > 0


@long
def test_a_frozen_base_keeps_no_residuals():
    """What is kept from the forward pass for the backward one: nothing as wide as its MLP, of
    whole rows."""
    batch = SMALL.batch(ROWS)

    def kept(frozen):
        def noise(queries):
            params = PARAMS | {"queries": queries}
            return SMALL.loss(params, batch, None, frozen)[0]["noise"]

        _, back = jax.vjp(noise, PARAMS["queries"])
        shapes = [x.shape for x in jax.tree.leaves(back) if hasattr(x, "shape")]
        wide = TEXT.intermediate_size
        return [s for s in shapes if s[-1:] == (wide,) and SMALL.length in s]

    assert kept(frozenset())
    assert not kept(SMALL.paths(*BASE))


def test_a_step_with_a_frozen_base_moves_what_learns_and_nothing_else():
    rules = tuple(Rule(f"{name}/", frozen=True) for name in (*BASE, "autoencoder"))
    small = SmallRows(SYSTEM, rules=rules)
    trainer = small.trainer(small.stage, MeshConfig(), jax.devices()[:1])
    state, metrics = trainer.train_step(small.begin(trainer), trainer.put(small.host_batches()[0]))
    for path, x in tree.flatten(state.frozen).items():
        np.testing.assert_array_equal(x, tree.flatten(PARAMS)[path], path)
    assert {path.split("/")[0] for path in tree.flatten(state.params)} == {
        "queries", "connector", "generator",
    }  # fmt: skip
    before = tree.flatten(PARAMS)
    for path, x in tree.flatten(state.params).items():
        assert not np.array_equal(x, before[path]), path
    assert float(metrics["noise/loss"][1]) > 0


def test_a_later_query_leaves_earlier_outputs_of_the_decoder_and_moves_every_condition():
    batch = SMALL.batch([[Document("d", (words(8, 9), SMALL.images["gen"][0]))]])
    at = np.flatnonzero(np.asarray(batch.kind[0]) == Kind.QUERY)

    @jax.jit
    def outputs(queries):
        params = PARAMS | {"queries": PARAMS["queries"] | {"embedding": queries}}
        hidden = SYSTEM.states(params, SYSTEM.embed(params, batch), batch)[:1, at]
        return hidden[0], SYSTEM.condition(params, hidden)[0]

    queries = PARAMS["queries"]["embedding"]
    hidden, shown = outputs(queries)
    moved, other = outputs(queries.at[-1].add(1.0))
    np.testing.assert_array_equal(hidden[:-1], moved[:-1])
    assert np.abs(hidden[-1] - moved[-1]).max() > 1e-3
    assert (np.abs(shown - other).max(axis=1) > 1e-6).all()


# The objective


@pytest.mark.parametrize("suite", [TestSana, pytest.param(TestUNet, marks=MARKS)])
def test_the_loss_is_the_released_codes(suite):
    """A loop over pictures: one timestep and one noise each; a mean, then a mean."""
    small, system = suite.small, suite.small.system
    config, gen = system.config, small.images["gen"]
    rows = [[Document("a", (words(8), gen[0]))], [Document("b", (words(9, 10), gen[1]))]]
    batch = small.batch(rows)
    sums, _ = small.loss(small.params, batch, None, frozenset())
    slots, errors = batch.images["gen"], []
    steps = config.schedule.num_train_timesteps
    for row in range(2):
        seed = slots.seed[row, 0]
        pixels = slots.pixels[row, :1].astype(jnp.float32) / 127.5 - 1
        latents = system.autoencoder.scaled(system.encode_gen(small.params, pixels)[0], seed)
        noise = draw_noise(seed, latents.shape)
        t = system.timesteps(slots)[row, 0]
        if config.prediction == FLOW:
            u = (t + 1) / steps
            sigma = 3 * u / (1 + 2 * u)
            noised, told = (1 - sigma) * latents + sigma * noise, sigma * steps
            wanted = noise - latents
        else:
            noised, told = add_noise(latents, noise, config.schedule.level(t)), t
            wanted = noise
        hidden = system.states(small.params, system.embed(small.params, batch), batch)
        at = np.flatnonzero(np.asarray(batch.kind[row]) == Kind.QUERY)
        shown = system.condition(small.params, hidden[row, at][None])
        found = system.predict(small.params, noised[None], jnp.full(1, float(told)), shown)
        errors.append(float(jnp.mean((found[0] - wanted) ** 2)))
    np.testing.assert_allclose(sums["noise"], sum(errors), rtol=1e-4)
    assert system.weights(batch)["noise"] == 2


# Drawing


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_drawing_equals_working_the_whole_row_again(ways):
    """The condition of every way from a packed row, then the guidance of the released code."""
    layout, special = SYSTEM.layout, SMALL.special
    und = SMALL.images["und"]
    documents = [
        Document("c", (words(8, 9), und[0], words(10))),
        Document("i", (words(8), und[0])),
        Document("u", (words(8), und[1])),
    ][:ways]
    asked = [up_to_image(d, "gen", layout, special) for d in documents]
    scale = None if ways == 1 else jnp.float32(3.0)
    seeds = np.array([5], np.uint32)
    prompt = Prompting(layout, special).batch(asked)
    found = draw_with_queries(SYSTEM, SYSTEM.for_decoding(PARAMS), *prompt, seeds, scale, 4)

    shown = []
    for document in documents:
        picture = ImageSpan("gen", SMALL.images["gen"][0].image)
        batch = SMALL.batch([[Document("d", (*document.spans, picture))]])
        hidden = SYSTEM.states(PARAMS, SYSTEM.embed(PARAMS, batch), batch)
        at = np.flatnonzero(np.asarray(batch.kind[0]) == Kind.QUERY)
        shown.append(SYSTEM.condition(PARAMS, hidden[:1, at]))
    sampler = SYSTEM.sampler_of(4)
    state = sampler.init(draw_noise(jnp.asarray(seeds), SYSTEM.maker.shape))
    predict = jax.jit(functools.partial(SYSTEM.predict, PARAMS))
    for _ in range(sampler.calls):
        x, timestep = sampler.model_input(state)
        out = [predict(x, jnp.full(1, timestep), s) for s in shown]
        if ways == 1:
            guided = out[0]
        elif ways == 2:
            guided = out[1] + 3.0 * (out[0] - out[1])
        else:
            c, i, u = out
            guided = u + 1.5 * (i - u) + 3.0 * (c - i)
        state = sampler.step(state, guided)
    np.testing.assert_allclose(
        found, state.sample, atol=1e-4 * np.abs(np.asarray(state.sample)).max()
    )


# Sizes and mistakes


def test_published_sizes():
    """The connector's 316M, 1.62B and 4.95B, 256 queries with Sana and 77 with SD1.5."""
    for size, count in (("b", 316), ("l", 1621), ("xl", 4947)):
        config = SIZES[f"metaquery_{size}_sana"]
        assert round(config.connector.count_parameters() / 1e6) == count
        assert config.connector.scale == math.sqrt(5.5)
        assert (config.queries, SIZES[f"metaquery_{size}_sd"].queries) == (256, 77)
        assert config.marks == (config.text.vocab_size, config.text.vocab_size + 1)
        assert MetaQuery(config).vocab_size == config.text.vocab_size + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"connector": ConnectorConfig(32, 16, 2, 8)},
            "model.connector.output_size: found 16; expected 24, the width of the context that "
            "model.generator reads",
        ),
        (
            {"connector": ConnectorConfig(24, 24, 2, 8)},
            "model.connector.hidden_size: found 24; expected 32, model.text.hidden_size",
        ),
        ({"queries": 0}, "model.queries: found 0; expected 1 or more"),
        ({"marks": (4,)}, "model.marks: found .* two ids"),
        ({"marks": (4, 4)}, "model.marks: found .* two ids"),
        ({"prediction": EPSILON}, "model.prediction: found 'epsilon'; expected one of"),
        ({"schedule": NoiseSchedule()}, "model.prediction: found 'flow_prediction'"),
        ({"steps": 0}, "dpm_solver"),
        ({"autoencoder": DCAutoencoderConfig()}, "model.generator.sample_size: found 4; expected"),
        (
            {"generator": dataclasses.replace(UNET, mid_block=False)},
            "model.generator: found mid_block=False",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
