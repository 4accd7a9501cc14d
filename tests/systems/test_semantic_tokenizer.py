"""The recipe with a semantic decoder: what it adds to that of codes (test_tokenizer.py)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.image_suite import ImageSuite
from tests.systems.small import SmallPictures
from unijax.core import tree
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.models.autoencoder import SIZES as KL_SIZES
from unijax.models.semantic import SemanticConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import SIZES
from unijax.ops.image import to_signed
from unijax.systems.tokenizer import RECIPE, Tokenizer, TokenizerConfig
from unijax.train.stage import Rule

VQ = SIZES["vq_test"]  # 8 x 8 codes of 16 pixels
SEEN = SiglipConfig(16, 2, 16, 32, 1, 2)
CONFIG = TokenizerConfig(
    vq=VQ, perceptual_weight=0.0, semantic=SemanticConfig(16, 32, 2, 2), teacher=SEEN
)
SMALL = SmallPictures(Tokenizer(CONFIG), rules=(Rule("teacher/", frozen=True),))


@long
class TestSemanticTokenizer(ImageSuite):
    small = SMALL
    recipe = RECIPE
    edges = 0.03
    of_what_is_worked_at_once = ("codes_used",)


def batch() -> ImageBatch:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return ImageBatch(jnp.asarray(pixels), jnp.asarray([1.0, 0.0, 1.0]))


def test_its_term_is_a_quarter_of_one_less_the_cosine_with_the_teacher():
    system, params, images = SMALL.system, SMALL.params, batch()
    sums, metrics = jax.jit(lambda p: system.loss(p, images, None, jnp.zeros(()), frozenset()))(
        params
    )
    real = to_signed(images.pixels)
    vectors = system.generator.apply({"params": params["generator"]}, real).vectors
    x = system.semantic.apply({"params": params["semantic"]}, vectors)
    x = np.asarray(system.semantic_head.apply({"params": params["semantic_head"]}, x), np.float64)
    y = np.asarray(system.teacher.patches(params["teacher"], real), np.float64)
    cosine = np.array(
        [
            np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in zip(*both, strict=True)])
            for both in zip(x, y, strict=True)
        ]
    )
    np.testing.assert_allclose(sums["semantic"], 0.25 * (2 - cosine[0] - cosine[2]), rtol=1e-4)
    np.testing.assert_allclose(metrics["cosine"][0], cosine[0] + cosine[2], rtol=1e-4, atol=1e-6)


def test_the_codes_learn_what_the_teacher_sees_and_the_teacher_nothing():
    system = SMALL.system

    def term(params):
        return system.loss(params, batch(), None, jnp.zeros(()), frozenset())[0]["semantic"]

    found = tree.flatten(jax.jit(jax.grad(term))(SMALL.params))
    moved = {path for path, x in found.items() if np.abs(x).max() > 0}
    assert {p.split("/")[0] for p in moved} == {"generator", "semantic", "semantic_head"}
    assert any(p.startswith("generator/encoder/") for p in moved), "through the codes"
    assert not any(p.startswith("generator/decoder/") for p in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, r"model\.semantic, model\.teacher: found one of them"),
        ({"semantic": None}, r"model\.semantic, model\.teacher: found one of them"),
        ({"vq": None, "kl": KL_SIZES["kl_test"]}, r"model\.semantic, model\.teacher: found one"),
        (
            {"teacher": dataclasses.replace(SEEN, patch_size=4)},
            r"model\.teacher: found features, 16 of a picture of 16 pixels; expected one for each "
            r"code, 64 of a picture of 16 pixels",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_without_one_the_recipe_is_what_it_was():
    plain = dataclasses.replace(CONFIG, semantic=None, teacher=None)
    assert SMALL.params.keys() - {"semantic", "semantic_head", "teacher"} == {"generator"}
    found = jax.eval_shape(Tokenizer(plain).init, jax.random.key(0))
    assert found.keys() == {"generator"}
