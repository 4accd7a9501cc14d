"""LLaVA: what every decoder must do; its four forms against transformers' networks."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.long import long
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SPECIAL, SmallRows, words
from unijax.core import tree
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data.document import Document
from unijax.models.clip import ClipVisionConfig
from unijax.models.eva import EvaConfig
from unijax.models.llama import LlamaConfig
from unijax.models.qwen_vision import QwenVisionConfig
from unijax.models.siglip import SiglipConfig
from unijax.nn.picture_tokens import PictureTokens, picture_tokens
from unijax.nn.projector import Projector
from unijax.ops.tiles import in_one_grid, views
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
# Two by two parts of two by two patches: 4 tokens of the whole, 4 rows of 5 of the grid.
CLIP = ClipVisionConfig(8, 4, 16, 32, 2, 2, features="pre_norm")
NEXT = LlavaConfig(
    dataclasses.replace(TEXT, qkv_bias=False, tie_word_embeddings=False), CLIP, newline=True,
    begins=True, head_chunk=16, tiles=2,
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
    # Tokens of a picture, whose patches lie on one device.
    may_gather_positions = (*DecoderSuite.may_gather_positions, "PictureTokens")


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
    # Costs are of the pairs that windows see; this program works all and leaves the others out.
    edges = 0.06
    # The tower's keys, and tokens of a picture.
    may_gather_positions = (
        *DecoderSuite.may_gather_positions, "blocks/attn", "jvp()/sharding_constraint",
    )  # fmt: skip

    def sizes(self):
        return {}  # they are those of the other


@long
class TestNext(DecoderSuite):
    """LLaVA-NeXT: pictures whole and in parts."""

    small = SmallRows(Llava(NEXT), length=120)
    recipe = RECIPE
    examples = 10
    # Features of parts, which make one grid; tokens of the whole and of the grid, one picture's.
    may_gather_positions = (
        *DecoderSuite.may_gather_positions, "jvp())/reshape", "PictureTokens",
    )  # fmt: skip

    def sizes(self):
        return {}


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


@pytest.mark.parametrize("tiles", [2, 3])
def test_parts_make_rows_as_transformers_has_them(tiles):
    """Features of the whole and of each part in, in transformers' order."""
    side, patches, pictures = 12, 3, 2  # of a part, of its side, of a batch
    module = PictureTokens(6, newline=True, tiles=tiles)
    features = np.random.default_rng(0).standard_normal(
        (pictures, views(tiles), patches**2, 4), np.float32
    )
    x = in_one_grid(jnp.asarray(features), tiles)
    params = nn.unbox(module.init(jax.random.key(0), x))
    found = module.apply(params, x)

    own = {"params": params["params"]["projector"]}
    projected = np.asarray(Projector(6).apply(own, jnp.asarray(features)))
    whole = tiles * side
    config = types.SimpleNamespace(
        vision_config=types.SimpleNamespace(image_size=side, patch_size=side // patches),
        image_grid_pinpoints=[[side, whole], [whole, side], [whole, whole]],
    )
    wanted, lengths = transformers.LlavaNextModel.pack_image_features(
        types.SimpleNamespace(config=config), list(torch.from_numpy(projected.copy())),
        torch.full((pictures, 2), whole), "default",
        torch.from_numpy(np.array(params["params"]["image_newline"])),
    )  # fmt: skip
    assert lengths.tolist() == [picture_tokens(patches**2, True, tiles)] * pictures
    np.testing.assert_allclose(found, np.stack([w.numpy() for w in wanted]), atol=1e-6)


def test_parts_are_encoded_one_by_one():
    """Each as the tower alone encodes it; the whole is as one picture's of its size."""
    small = SmallRows(Llava(NEXT))
    system, group = small.system, small.params["vision_model"]
    picture = np.zeros((1, 16, 16, 3), np.float32)
    picture[:, :8, 8:] = np.random.default_rng(0).uniform(-1, 1, (8, 8, 3))
    found = np.asarray(system.encode_und(small.params, jnp.asarray(picture)))
    assert found.shape == (1, *system.encoded["und"].shape) == (1, 20, 16)
    grid = found[0, 4:].reshape(4, 4, 16)
    alone = system.vision_model.patches(group, jnp.asarray(picture[:, :8, 8:]))
    np.testing.assert_allclose(grid[:2, 2:].reshape(1, 4, 16), alone, atol=1e-5)
    grey = system.vision_model.patches(group, jnp.zeros((1, 8, 8, 3)))
    for part in (grid[:2, :2], grid[2:, :2], grid[2:, 2:]):
        np.testing.assert_allclose(part.reshape(1, 4, 16), grey, atol=1e-5)


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
    """2928 tokens of a picture of LLaVA-NeXT, 1485 of LLaVA-OneVision; the least of Qwen2.5-VL in
    MetaQuery."""
    assert SIZES["llava_next_8b"].picture_tokens == 24 * 24 + 48 * 49 == 2928
    assert SIZES["llava_next_8b"].image_size == 672
    assert SIZES["llava_onevision_0.5b"].picture_tokens == 27 * 27 + 27 * 28
    assert SIZES["qwen2.5_vl_3b"].picture_tokens == 256


def test_llava_next_has_the_parameters_of_the_release():
    """All of transformers', but for the tower's last layer and norm, which LLaVA does not read."""
    config = transformers.LlavaNextConfig(
        text_config=dict(
            model_type="llama", vocab_size=128320, hidden_size=4096, intermediate_size=14336,
            num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
            rms_norm_eps=1e-5, max_position_embeddings=8192, rope_theta=500000.0,
        ),
        vision_config=dict(
            model_type="clip_vision_model", hidden_size=1024, intermediate_size=4096,
            num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14,
            projection_dim=768,
        ),
        image_token_index=128256, vision_feature_layer=-2,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.LlavaNextForConditionalGeneration(config)
    of = {name: p.numel() for name, p in theirs.named_parameters()}
    unread = sum(n for name, n in of.items() if "layers.23." in name and "vision_tower" in name)
    unread += sum(n for name, n in of.items() if "post_layernorm" in name)
    shapes = tree.flatten(nn.unbox(init_shapes(Llava(SIZES["llava_next_8b"]))))
    count = sum(x.size for x in shapes.values())
    assert sum(of.values()) == 8_355_276_800
    assert count == 8_355_276_800 - unread == 8_342_678_528


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles": 0}, "model.tiles: found 0; expected 1 or more"),
        ({"tiles": 2}, "model.newline: found False with tiles=2; expected True"),
        ({"tiles": 2, "vision": QWEN}, "model.tiles: found 2 with a tower of Qwen2.5-VL"),
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
