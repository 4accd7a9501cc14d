"""Emu: what every decoder must do, and what its paper says of vectors, targets and painting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, words
from unijax.core import tree
from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data.document import Document, ImageSpan
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.cformer import CFormerConfig
from unijax.models.eva import EvaConfig
from unijax.models.llama import LlamaConfig
from unijax.models.unet import UNetConfig
from unijax.ops.image import to_signed
from unijax.sample.image import draw_features
from unijax.sample.painting import paint
from unijax.sample.prompts import Prompting, unconditional, up_to_image
from unijax.systems.emu import IMAGE, RECIPE, SIZES, Emu, EmuConfig
from unijax.systems.painter import PainterConfig
from unijax.train.stage import Rule

TEXT = LlamaConfig(48, 32, 48, 2, 4, 2, 8, 1e-6)
VISION = EvaConfig(16, 32, 1, 2, image_size=8, patch_size=4, features="pre_norm")
CFORMER = CFormerConfig(3, 16, 24, 2, 2, 8, 8, 16)
UNET = UNetConfig(
    4, block_out_channels=(32, 32), layers_per_block=1, attention_levels=(True, False),
    cross_attention_dim=32, num_attention_heads=4,
)  # fmt: skip
PAINTER = PainterConfig(
    UNET, AutoencoderConfig(8, 4, (32, 32), 1, scaling_factor=0.7), steps=2, free="prompt"
)
CONFIG = EmuConfig(TEXT, VISION, CFORMER)
SYSTEM = Emu(CONFIG)
PAINTING = Emu(dataclasses.replace(CONFIG, painter=PAINTER))


class TestEmu(DecoderSuite):
    small = SmallRows(SYSTEM, rules=(Rule("vision_model/", frozen=True),))
    recipe = RECIPE
    # States of pictures are found among all positions.
    may_gather_positions = (*DecoderSuite.may_gather_positions, "jvp()/sharding_constraint")


SMALL = TestEmu.small
PARAMS = SMALL.params
N = CONFIG.num_tokens


def loss_of(small: SmallRows):
    return jax.jit(functools.partial(small.loss, frozen=frozenset()))


def document() -> Document:
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    return Document("d", (words(8), und, words(9, 10), gen, words(11)))


def test_thirty_three_states_say_the_next_inputs():
    """A loop: from the begin mark to the last vector, against the embeddings one further on."""
    batch = SMALL.batch([[Document("t", (words(8, 9, 10),)), document()]])
    sums, metrics = loss_of(SMALL)(PARAMS, batch, None)
    x = SYSTEM.embed(PARAMS, batch)
    hidden = SYSTEM.states(PARAMS, x, batch)[0]
    total = count = 0
    for image in (1, 2):
        at = np.flatnonzero(np.asarray(batch.image[0]) == image)
        assert len(at) == N
        for position in range(at[0] - 1, at[-1] + 1):
            said = hidden[position] @ PARAMS["stu_regress_head"]["kernel"]
            total += float(jnp.mean((said - x[0, position + 1]) ** 2))
            count += 1
    assert count == 2 * (N + 1) == float(SYSTEM.weights(batch)["regression"])
    np.testing.assert_allclose(sums["regression"], total, rtol=1e-5)
    np.testing.assert_allclose(metrics["regression/loss"], (total, count), rtol=1e-5)
    # The last of them is the end mark's embedding.
    table = PARAMS["language_model"]["embed_tokens"]["embedding"]
    np.testing.assert_allclose(x[0, at[-1] + 1], table[SMALL.special.eoi], rtol=1e-6)


def test_marks_and_pictures_are_no_words():
    """Text labels leave out what pictures are made of; [IMG] is never one."""
    batch = SMALL.batch([[document()]])
    n = SMALL.size(document())
    learned = np.asarray(batch.target_kind[0, :n]) == Target.TEXT
    labels = np.asarray(batch.target[0, :n])[learned]
    assert labels.tolist() == [8, 9, 10, 11]


def test_targets_are_detached():
    """Of a head that says nothing, the error pulls at the head alone: no target moves."""
    params = PARAMS | {"stu_regress_head": {"kernel": jnp.zeros((32, 32))}}
    batch = SMALL.batch([[document()]])

    def regression(params):
        return SMALL.loss(params, batch, None, frozenset())[0]["regression"]

    grads = tree.flatten(jax.jit(jax.grad(regression))(params))
    moved = {p.split("/")[0] for p, g in grads.items() if np.any(g)}
    assert moved == {"stu_regress_head"}


def test_answers_alone_are_learned_in_instruction_tuning():
    small = SmallRows(Emu(dataclasses.replace(CONFIG, regress_read=False)))
    batch = small.batch([[document()]])
    assert float(small.system.weights(batch)["regression"]) == N + 1


def test_all_tokens_of_the_tower_are_read_before_its_last_norm():
    pixels = to_signed(SMALL.batch([[document()]]).images[IMAGE].pixels[0, :1])
    features = SYSTEM.encode_features(PARAMS, pixels)
    assert features.shape == (1, 4 + 1, 16)
    assert "post_layernorm" not in PARAMS["vision_model"]


# The painter


@pytest.fixture(scope="module")
def painting():
    frozen = Rule("vision_model/", frozen=True), Rule("autoencoder/", frozen=True)
    return SmallRows(PAINTING, rules=frozen)


def test_the_painter_learns_from_what_the_decoder_says(painting):
    """A loop over pictures: the regressed vectors are the condition of each."""
    system, params = painting.system, painting.params
    batch = painting.batch([[document()], [Document("e", (words(9), painting.images["gen"][1]))]])
    sums, metrics = loss_of(painting)(params, batch, None)
    states = jax.jit(lambda p, b: system.states(p, system.embed(p, b), b))
    errors_of = jax.jit(system.painter.errors)
    hidden, encode = states(params, batch), jax.jit(system.painter.encode_moments)
    errors = []
    for row, slot, image in ((0, 0, 1), (0, 1, 2), (1, 0, 1)):
        at = np.flatnonzero(np.asarray(batch.image[row]) == image)
        said = system.regress(params, hidden[row, at - 1])
        slots = batch.images[IMAGE]
        pixels = to_signed(slots.pixels[row, slot])[None]
        moments = encode(params, pixels)
        seed = slots.seed[row, slot][None]
        errors.append(float(errors_of(params, moments, said[None], seed)[0][0]))
    np.testing.assert_allclose(sums["noise"], sum(errors), rtol=1e-4)
    np.testing.assert_allclose(metrics["noise/loss"], (sum(errors), 3), rtol=1e-4)
    assert float(system.weights(batch)["noise"]) == 3


def test_a_cache_of_features_alone_is_no_food_for_a_painter(painting):
    batch = painting.batch([[document()]], painting.caches)
    with pytest.raises(UserError, match="cache_frozen: found features of the tower alone"):
        painting.loss(painting.params, batch, None, frozenset())


def test_it_writes_vectors_and_paints_them_against_those_of_an_empty_prompt(painting):
    """One by one as teacher forcing says; both branches through the decoder."""
    system, params, special = painting.system, painting.params, painting.special
    layout = system.layout
    prompt = Document("p", (words(8, 9, 10),))
    free = unconditional(prompt, "gen", layout, special)
    asked = [up_to_image(d, "gen", layout, special) for d in (prompt, free)]
    ready = system.for_decoding(params)
    batch = Prompting(layout, special).batch(asked)
    vectors = draw_features(system, ready, *batch, None)
    for i, before in enumerate((prompt, free)):
        picture = ImageSpan("gen", painting.images["gen"][0].image)
        row = painting.batch([[Document("d", (*before.spans, picture))]])
        x = system.embed(params, row)
        here = np.flatnonzero(np.asarray(row.kind[0]) == Kind.GEN)
        x = x.at[0, here].set(vectors[i])
        said = system.regress(params, system.states(params, x, row)[0, here - 1])
        np.testing.assert_allclose(vectors[i], said, rtol=1e-4, atol=1e-4)
    assert len(free.spans) == 0
    seeds = jnp.array([5], jnp.uint32)
    maker = system.maker
    latents = paint(
        system, maker.painting, ready, vectors[:1], vectors[1:], seeds, jnp.float32(3.0), 2
    )
    assert latents.shape == (1, 4, 4, 4)
    assert maker.guidance == 7.5


def test_published_sizes():
    """14.18B with the painter (the specification's count); 129.0M of CFormer, 968M of U-Net."""
    shapes = tree.flatten(init_shapes(Emu(SIZES["emu_14b_painter"])))
    sizes = {}
    for path, box in shapes.items():
        group = path.split("/")[0]
        sizes[group] = sizes.get(group, 0) + int(np.prod(box.value.shape))
    assert sizes["unet"] == 968_146_884
    assert sizes["cformer"] == 129_033_344
    assert sizes["language_model"] == 13_015_864_320 + 2 * 4 * 5120
    assert sizes["stu_regress_head"] == 5120**2
    assert sizes["ln_visual"] == 2 * 1408


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"painter": dataclasses.replace(PAINTER, unet=dataclasses.replace(
                UNET, cross_attention_dim=24))},
            "cross_attention_dim: found 24; expected 32, the width of the decoder's vectors",
        ),
        (
            {"vision": dataclasses.replace(VISION, image_size=16), "painter": PAINTER},
            "autoencoder.image_size: found 8; expected at least 16, what the tower sees",
        ),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        dataclasses.replace(CONFIG, **change)
