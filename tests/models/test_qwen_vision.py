"""Qwen2.5-VL's tower against transformers': pictures of several sizes in one row, counts, sizes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.walk import product_flops
from tests.weights import distance, randomise, shapes_of, through
from unijax.core.errors import UserError
from unijax.interop.llava_parts import qwen_vision
from unijax.interop.table import Table
from unijax.models.qwen_vision import SIZES, QwenVision, QwenVisionConfig, packed
from unijax.ops.patches import patchify

SMALL = QwenVisionConfig(
    image_size=24, patch_size=2, hidden_size=32, intermediate_size=44, depth=3, num_heads=2,
    window_size=8, fullatt_block_indexes=(1,), out_hidden_size=24, min_pixels=16,
)  # fmt: skip


def reference(config: QwenVisionConfig):
    module = transformers.models.qwen2_5_vl
    vision = module.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
        depth=config.depth, hidden_size=config.hidden_size, num_heads=config.num_heads,
        intermediate_size=config.intermediate_size, patch_size=config.patch_size,
        window_size=config.window_size, out_hidden_size=config.out_hidden_size,
        fullatt_block_indexes=list(config.fullatt_block_indexes),
        spatial_merge_size=config.spatial_merge_size,
    )  # fmt: skip
    network = module.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel
    return network._from_config(vision, attn_implementation="eager")


def pair(config: QwenVisionConfig):
    theirs = randomise(reference(config))
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    boxed = jax.eval_shape(QwenVision(config).init, jax.random.key(0), pixels)["params"]
    names = Table(tuple(qwen_vision(config, "tower", "")))
    shapes = {f"tower/{p}": s for p, s in shapes_of(nn.unbox(boxed)).items()}
    return theirs, through(names, theirs.state_dict(), shapes)["tower"]


def theirs_of(model, pictures, config):
    """Patches of every picture in the order of its processor: units of 2 x 2 in raster order."""
    size, merge = config.patch_size, config.spatial_merge_size
    rows, grids = [], []
    for x in pictures:
        h, w = x.shape[0] // size, x.shape[1] // size
        x = x.reshape(h // merge, merge, size, w // merge, merge, size, 3)
        x = x.transpose(0, 3, 1, 4, 6, 2, 5).reshape(h * w, 3, 1, size, size)
        rows.append(np.repeat(x, 2, axis=2).reshape(h * w, -1))
        grids.append([1, h, w])
    with torch.no_grad():
        found = model(torch.from_numpy(np.concatenate(rows)), grid_thw=torch.tensor(grids))
    return found.pooler_output.numpy()


def test_pictures_of_several_sizes_in_one_row_equal_the_reference():
    """Windows that are cut at the edges of a picture among them; the row is padded."""
    theirs, params = pair(SMALL)
    rng = np.random.default_rng(0)
    pictures = [rng.standard_normal((h, w, 3), np.float32) for h, w in ((24, 24), (8, 20), (12, 4))]
    want = theirs_of(theirs, pictures, SMALL)
    grids = [(x.shape[0] // 2, x.shape[1] // 2) for x in pictures]
    laid = packed(grids, SMALL, length=240)
    patches = jnp.concatenate([patchify(jnp.asarray(x)[None], 2)[0] for x in pictures])[laid.order]
    ends = (laid.window, laid.whole)
    rows = [jnp.asarray(x)[None] for x in (patches, laid.place)]
    ends = [tuple(jnp.asarray(e)[None] for e in pair_) for pair_ in ends]
    params = {"params": jax.tree.map(jnp.asarray, params)}
    found = QwenVision(SMALL).apply(params, *rows, *ends, method="sequence")
    assert found.shape == (1, 60, 24)
    assert distance(found[0, laid.features], want) <= 1e-5
    # One that stands alone is what it is in company.
    alone = QwenVision(SMALL).apply(params, jnp.asarray(pictures[1])[None])
    assert distance(alone[0], want[36:46]) <= 1e-5


def test_a_block_at_full_width_is_equal_to_the_reference():
    config = dataclasses.replace(
        SIZES["qwen2.5_vl_3b"], depth=2, fullatt_block_indexes=(1,), image_size=140
    )
    theirs, params = pair(config)
    picture = np.random.default_rng(0).standard_normal((140, 140, 3), np.float32)
    found = jax.jit(QwenVision(config).apply)({"params": params}, picture[None])
    assert distance(found[0], theirs_of(theirs, [picture], config)) <= 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_published_counts(size):
    config = SIZES[size]
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    boxed = jax.eval_shape(QwenVision(config).init, jax.random.key(0), pixels)
    count = sum(x.size for x in jax.tree.leaves(nn.unbox(boxed)))
    with torch.device("meta"):
        assert sum(p.numel() for p in reference(config).parameters()) == count
    assert count == config.count_parameters()


def test_flops_are_those_of_the_program():
    """But for attention, of which the program here works every pair."""
    config, pixels = dataclasses.replace(SMALL, image_size=12), jnp.zeros((2, 12, 12, 3))
    boxed = jax.eval_shape(QwenVision(config).init, jax.random.key(0), pixels)
    found = product_flops(jax.make_jaxpr(QwenVision(config).apply)(nn.unbox(boxed), pixels))
    ends = packed([(6, 6)], config)
    unseen = 2 * (36 * 36 - int((ends.window[1] - ends.window[0]).sum()))
    assert unseen > 0
    assert found == 2 * (config.flops_per_image() + 4 * config.hidden_size * unseen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 26}, "image_size: found 26; expected a multiple of 4"),
        ({"window_size": 10}, "window_size: found 10; expected a multiple of 4"),
        ({"hidden_size": 36}, "hidden_size: found 36; expected a multiple of 8"),
        ({"fullatt_block_indexes": (3,)}, "expected blocks from 0 to 2"),
        ({"max_pixels": 400}, "found a picture of 24 x 24 pixels; expected sides that"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_picture_outside_the_towers_limits_is_refused():
    with pytest.raises(UserError, match="picture 3: found a picture of 28 x 30 pixels"):
        SIZES["qwen2.5_vl_3b"].check_size("picture 3", 30, 28)
