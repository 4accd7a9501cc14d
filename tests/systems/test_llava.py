"""LLaVA: what every decoder must do; its three forms against transformers' networks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SPECIAL, SmallRows, words
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.data.document import Document
from unijax.models.eva import EvaConfig
from unijax.models.llama import LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.siglip import SiglipConfig
from unijax.nn.picture_tokens import PictureTokens, picture_tokens
from unijax.systems.llava import RECIPE, SIZES, Llava, LlavaConfig

TEXT = LlamaConfig(48, 32, 48, 2, 4, 2, 8, 1e-5, qkv_bias=True, tie_word_embeddings=True)
VISION = SiglipConfig(8, 4, 16, 32, 2, 2)
CONFIG = LlavaConfig(TEXT, VISION, begins=True, head_chunk=16)
EVA = EvaConfig(16, 32, 2, 2, image_size=8, patch_size=4, patch_dropout=0.5)
# Four tokens of a picture of 8 x 8 pixels, in windows of two by two patches.
QWEN = QwenVisionConfig(
    image_size=8, patch_size=2, hidden_size=16, intermediate_size=20, depth=2, num_heads=2,
    window_size=4, fullatt_block_indexes=(1,), out_hidden_size=32, min_pixels=16,
)  # fmt: skip
QWEN_SPECIAL = dataclasses.replace(SPECIAL, vision_start=46, vision_end=47)


class TestLlava(DecoderSuite):
    # Random weights with a tied head say their last word for ever.
    small = SmallRows(
        Llava(
            dataclasses.replace(CONFIG, text=dataclasses.replace(TEXT, tie_word_embeddings=False))
        )
    )
    recipe = RECIPE


@long
class TestQwen(DecoderSuite):
    """Qwen2.5-VL: marks, no begin of sequence, positions of three axes."""

    small = SmallRows(
        Llava(LlavaConfig(dataclasses.replace(TEXT, mrope_section=(1, 1, 2)), QWEN, head_chunk=16)),
        special=QWEN_SPECIAL,
        last_word=45,
    )
    recipe = RECIPE
    examples = 10

    def sizes(self):
        return {}  # they are those of the other


def test_a_picture_that_comes_twice_has_ends_of_rows():
    module = PictureTokens(6, newline=True)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 4), np.float32))
    params = nn.unbox(module.init(jax.random.key(0), x))
    found = module.apply(params, x)
    alone = PictureTokens(6, newline=False).apply(
        {"params": {"projector": params["params"]["projector"]}}, x
    )
    assert found.shape == (2, picture_tokens(9, True), 6) == (2, 21, 6)
    np.testing.assert_array_equal(found[:, :9], alone)
    rows = found[:, 9:].reshape(2, 3, 4, 6)
    np.testing.assert_array_equal(rows[:, :, :3].reshape(2, 9, 6), alone)
    newline = params["params"]["image_newline"]
    np.testing.assert_array_equal(rows[:, :, 3], np.broadcast_to(newline, (2, 3, 6)))


def test_positions_of_pictures_have_three_axes():
    small = TestQwen.small
    document = Document("d", (words(8, 9), small.images["und"][0], words(10)))
    batch = small.batch([[document]])
    found = np.asarray(small.system.positions(batch)[0, : small.size(document)])
    # 8 9 start | 2 x 2 | end 10
    assert found[:3].tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert found[3:7].tolist() == [[3, 3, 3], [3, 3, 4], [3, 4, 3], [3, 4, 4]]
    assert found[7:].tolist() == [[5] * 3, [6] * 3]
    assert (batch.kind[0, 3:7] == Kind.UND).all()


def test_published_sizes():
    """1485 tokens of a picture of LLaVA-OneVision; the least picture of Qwen2.5-VL in MetaQuery."""
    assert SIZES["llava_onevision_0.5b"].picture_tokens == 27 * 27 + 27 * 28
    assert SIZES["qwen2.5_vl_3b"].picture_tokens == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"newline": True, "vision": QWEN}, "model.newline: found True with a tower of Qwen"),
        (
            {"vision": dataclasses.replace(QWEN, out_hidden_size=16)},
            "out_hidden_size: found 16; expected model.text.hidden_size, 32",
        ),
        (
            {"text": dataclasses.replace(TEXT, mrope_section=(1, 1, 2))},
            "mrope_section: found .* none: positions of three axes",
        ),
        (
            {"text": dataclasses.replace(TEXT, max_position_embeddings=4)},
            "model.vision: found 4 tokens of a picture; expected fewer than",
        ),
        (
            {"vision": EVA},
            "model.vision.patch_dropout",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
