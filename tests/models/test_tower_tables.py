"""Parameters of every named size of EVA and CLIP: golden tables."""

import jax
import jax.numpy as jnp
import pytest

from tests.goldens import check_golden
from tests.tables import parameter_table
from unijax.models import clip, eva


def of_pictures(model, config) -> dict:
    side = config.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(model(config).init, jax.random.key(0), pixels)["params"]


@pytest.mark.parametrize("size", eva.SIZES)
def test_golden_table_of_eva(size):
    found = parameter_table(of_pictures(eva.Eva, eva.SIZES[size]), {})
    check_golden(f"parameters/eva/{size}.txt", found)


@pytest.mark.parametrize("size", clip.VISION_SIZES)
def test_golden_table_of_clips_vision(size):
    found = parameter_table(of_pictures(clip.ClipVision, clip.VISION_SIZES[size]), {})
    check_golden(f"parameters/clip/{size}.txt", found)


@pytest.mark.parametrize("size", clip.TEXT_SIZES)
def test_golden_table_of_clips_text(size):
    ids, length = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, 1), (1,)))
    init = clip.ClipText(clip.TEXT_SIZES[size]).init
    boxed = jax.eval_shape(init, jax.random.key(0), ids, length)["params"]
    check_golden(f"parameters/clip/{size}.txt", parameter_table(boxed, {}))
