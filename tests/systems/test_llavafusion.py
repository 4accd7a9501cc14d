"""LLaVAFusion: what every decoder must do; the frozen model answers as it did."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems import test_lmfusion
from tests.systems.decoder_suite import NEVER, DecoderSuite
from tests.systems.small import SmallRows, words
from tests.systems.system_suite import LONGEST
from tests.systems.test_llava import CLIP, QWEN, VISION
from unijax.core import tree
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data.document import Document
from unijax.parallel.sharding import MeshConfig
from unijax.sample.logits import Choice
from unijax.sample.prompts import Prompting
from unijax.sample.text import write_ids
from unijax.systems import llava
from unijax.systems.llava import Llava, LlavaConfig
from unijax.systems.llavafusion import RECIPE, SIZES, LLaVAFusion, LLaVAFusionConfig
from unijax.systems.reading import ReadingConfig
from unijax.train.stage import Rule

OF_LMFUSION = {
    f.name: getattr(test_lmfusion.CONFIG, f.name) for f in dataclasses.fields(test_lmfusion.CONFIG)
}
CONFIG = LLaVAFusionConfig(vision=VISION, begins=True, **OF_LMFUSION)
SYSTEM = LLaVAFusion(CONFIG)
FROZEN = tuple(Rule(pattern, frozen=True) for pattern in LLaVAFusion.keeps)
# Pictures whole and in two by two parts, as the published size has them.
PARTS = dataclasses.replace(CONFIG, vision=CLIP, newline=True, tiles=2)


class Rows(SmallRows):
    @functools.cached_property
    def images(self):
        """Those to draw last, where the suite's documents look for them; not those to change."""
        found = super().images
        return {role: found[role] for role in ("und", "source", "gen")}


class TestLLaVAFusion(DecoderSuite):
    # The tests below hold what is this system's own; LMFusion's, of every change, the rest.
    long = LONGEST | {
        "test_a_document_does_not_depend_on_what_it_was_packed_with_nor_where",
        "test_what_is_cached_stands_for_pixels",
        "test_nothing_is_drawn_in_evaluation_that_training_draws_otherwise",
    }
    small = Rows(SYSTEM, rules=FROZEN)
    recipe = RECIPE
    edges = test_lmfusion.TestLMFusion.edges
    may_gather = test_lmfusion.TestLMFusion.may_gather
    # Also the tokens of pictures to read, before these stand in their row.
    may_gather_positions = (*test_lmfusion.TestLMFusion.may_gather_positions, "PictureTokens")
    examples = 10


SMALL = TestLLaVAFusion.small
PARAMS = SMALL.params


def base_of(config: LLaVAFusionConfig) -> Llava:
    """The frozen model alone."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(ReadingConfig)}
    return Llava(LlavaConfig(**fields))


def of_base(params):
    return {name: params[name] for name in ("aligner", "language_model", "vision_model")}


@functools.partial(jax.jit, static_argnums=0)
def logits(system, params, batch):
    hidden = system.states(params, system.embed(params, batch), batch)
    return system.text_logits(params, hidden)


def shown(small: SmallRows) -> list[Document]:
    """Documents with a picture to read or none, and one with two."""
    first, second, *_ = small.images["und"]
    return [
        Document("one", (words(8, 9), first, words(10, 11))),
        Document("none", (words(12, 13, 14),)),
        Document("two", (second, words(9), first, words(7))),
    ]


@pytest.mark.parametrize("config", [CONFIG, PARTS], ids=["whole", "parts"])
def test_what_is_shown_is_read_as_the_frozen_model_reads_it(config):
    """To the bit where a batch has no room for drawings, to rounding where it has."""
    small = SmallRows(LLaVAFusion(config), length=120)
    one, none, two = shown(small)
    batch = small.batch([[one, none], [two]])
    alone = batch.replace(images={"und": batch.images["und"]})
    want = logits(base_of(config), of_base(small.params), alone)
    np.testing.assert_array_equal(logits(small.system, small.params, alone), want)
    at = np.asarray(batch.kind) != Kind.PAD
    found, want = np.asarray(logits(small.system, small.params, batch)), np.asarray(want)
    np.testing.assert_allclose(found[at], want[at], atol=1e-5 * np.abs(want).max())


def test_what_is_asked_is_answered_as_by_the_frozen_model():
    def written(system, params):
        prompting = Prompting(system.layout, SMALL.special)
        documents = shown(SMALL)
        ids = write_ids(
            system, system.for_decoding(params), *prompting.batch(documents), jnp.array([NEVER]),
            np.zeros(len(documents), np.uint32), Choice(), jnp.int32(6), space=6,
        )  # fmt: skip
        return np.asarray(ids)

    found, want = written(SYSTEM, PARAMS), written(base_of(CONFIG), of_base(PARAMS))
    np.testing.assert_array_equal(found, want)
    assert len({tuple(ids) for ids in found}) > 1


def test_nothing_before_the_first_drawing_knows_the_twin():
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    document = Document("d", (words(8), und, words(9, 10), gen, words(11, 12)))
    batch = SMALL.batch([[document]])
    moved = PARAMS | {"image_twin": jax.tree.map(lambda x: x + 0.1, PARAMS["image_twin"])}
    change = logits(SYSTEM, moved, batch) - logits(SYSTEM, PARAMS, batch)
    change = np.abs(np.asarray(change[0])).max(axis=-1)
    drawn = np.flatnonzero(np.asarray(batch.kind[0]) == Kind.GEN)
    assert (np.asarray(batch.kind[0, : drawn[0]]) == Kind.UND).sum() == CONFIG.picture_tokens
    assert (change[: drawn[0]] == 0).all()
    assert change[drawn[-1] + 1 : SMALL.size(document)].min() > 1e-6


def test_pictures_that_are_read_are_causal_and_drawn_ones_whole():
    """What a later position holds shows in an earlier one of the same drawing alone."""
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    batch = SMALL.batch([[Document("d", (words(8), und, words(9), gen))]])
    x = jax.jit(SYSTEM.embed)(PARAMS, batch)
    states = jax.jit(functools.partial(SYSTEM.states, PARAMS, batch=batch))
    for kind, earlier in ((Kind.UND, False), (Kind.GEN, True)):
        *_, before, last = np.flatnonzero(np.asarray(batch.kind[0]) == kind)
        change = states(x.at[0, last].add(1.0)) - states(x)
        change = np.abs(np.asarray(change[0, before])).max()
        assert (change > 1e-4) == earlier, kind


def test_what_is_read_goes_through_the_frozen_side_and_sources_and_drawings_through_the_twin():
    """The last layer's SwiGLU moves what goes through it, and nothing else."""
    und, source, gen = (SMALL.images[role][0] for role in ("und", "source", "gen"))
    document = Document("d", (words(8), und, words(9), source, words(10, 11), gen, words(12)))
    batch = SMALL.batch([[document]])
    states = jax.jit(lambda params: SYSTEM.states(params, SYSTEM.embed(params, batch), batch))
    kind = np.asarray(batch.kind[0])
    assert (kind == Kind.GEN).sum() == 2 * CONFIG.num_tokens
    assert (kind == Kind.UND).sum() == CONFIG.picture_tokens
    for group, own in (("image_twin", (Kind.GEN,)), ("language_model", (Kind.TEXT, Kind.UND))):
        flat = tree.flatten(PARAMS)
        path = f"{group}/layers/mlp/up_proj/kernel"
        moved = tree.unflatten(flat | {path: flat[path].at[-1].multiply(1.5)})
        change = np.abs(np.asarray(states(moved) - states(PARAMS))[0]).max(axis=-1)
        here = np.isin(kind, own)
        assert change[here].min() > 1e-4, group
        assert change[~here & (kind != Kind.PAD)].max() == 0, group


def test_texts_are_told_apart_by_what_they_stand_beside():
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    rows = [
        [Document("a", (words(8, 9), gen)), Document("b", (words(8), und, words(9, 10, 11)))],
        [Document("c", (words(8, 9, 10, 11),)), Document("d", (und, words(8, 9), gen, words(7)))],
    ]
    counts = SMALL.system.counts(SMALL.batch(rows))
    found = {name: float(counts[f"{name}/targets"][0]) for name in SYSTEM.losses}
    # Begin-of-image is learned too.
    assert found == {"text": 4, "prompt": 3 + 3, "understanding": 4 + 1, "noise": 8}


def test_training_moves_the_twin_and_not_a_bit_of_the_frozen_model():
    trainer = SMALL.trainer(SMALL.stage, MeshConfig(), jax.devices()[:1])
    state = SMALL.begin(trainer)
    before = {path: np.array(x) for path, x in tree.flatten(PARAMS).items()}
    for batch in SMALL.host_batches()[:2]:
        state, _ = trainer.train_step(state, trainer.put(batch))
    frozen = tree.flatten(state.frozen)
    assert {path.split("/")[0] for path in frozen} == {p.rstrip("/") for p in LLaVAFusion.keeps}
    for path, x in frozen.items():
        np.testing.assert_array_equal(np.asarray(x), before[path], path)
    trained = {path: np.asarray(x) for path, x in tree.flatten(state.params).items()}
    assert {path.split("/")[0] for path in trained} == {"image_twin", "image_layers"}
    assert all(np.any(x != before[path]) for path, x in trained.items())


def test_published_counts():
    """8.34B of LLaVA-NeXT, 6.98B of the twin, 0.29B of the U-Net, 0.08B of the autoencoder."""
    (config,) = SIZES.values()
    shapes = nn.unbox(init_shapes(LLaVAFusion(config)))
    count = {
        group: sum(x.size for x in tree.flatten(part).values()) for group, part in shapes.items()
    }
    assert count == {
        "language_model": 8_030_785_536,
        "vision_model": 290_909_184,
        "aligner": 20_983_808,
        "image_twin": 32 * 218_112_000 + 4096,
        "image_layers": 285_554_824,
        "autoencoder": 83_709_419,
    }
    base = init_shapes(Llava(llava.SIZES["llava_next_8b"]))
    assert {name: shapes[name] for name in base} == nn.unbox(base)
    assert sum(count.values()) == 15_691_530_867


def test_a_tower_that_ends_at_the_decoders_width_is_refused():
    with pytest.raises(UserError, match=r"model\.vision: found a tower of the kind 'qwen"):
        dataclasses.replace(CONFIG, vision=QWEN)
    with pytest.raises(UserError, match=r"model\.tiles: found 0"):
        dataclasses.replace(CONFIG, tiles=0)
    with pytest.raises(UserError, match=r"model\.separation: found 'none'"):
        dataclasses.replace(CONFIG, separation="none")
