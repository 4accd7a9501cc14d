"""Parameters of every named size: exact counts of the specification, and golden tables."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from tests.goldens import check_golden
from unijax.core import axes
from unijax.core.tree import flatten
from unijax.models import clip, eva, llama
from unijax.systems import janus

# Janus-Pro's blocks, parameters at 1B and at 7B.
BLOCKS = {
    "vision_model": (303_688_704, 303_688_704),
    "aligner": (6_295_552, 20_979_712),
    "vqmodel": (71_883_403, 71_883_403),
    "generation_embeddings": (131_072, 131_072),
    "generation_aligner": (4_214_784, 16_818_176),
    "generation_head": (37_767_168, 83_906_560),
    "language_model without lm_head": (1_442_940_928, 6_490_935_296),
    "language_model/lm_head": (209_715_200, 419_430_400),
}
TOTALS = (2_076_636_811, 7_407_773_323)
JANUS = {"janus_1b": 0, "janus_pro_1b": 0, "janus_pro_7b": 1}  # column of the above


def llama_shapes(size: str) -> dict:
    model = llama.Llama(llama.SIZES[size])
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    init = lambda key, ids: model.init(key, ids, method="init_all")["params"]  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0), ids)


def picture_shapes(model, config) -> dict:
    side = config.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(model(config).init, jax.random.key(0), pixels)["params"]


def text_shapes(config: clip.ClipTextConfig) -> dict:
    ids, length = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, 1), (1,)))
    return jax.eval_shape(clip.ClipText(config).init, jax.random.key(0), ids, length)["params"]


def janus_shapes(size: str) -> dict:
    return jax.eval_shape(janus.Janus(janus.SIZES[size]).init, jax.random.key(0))


def table(shapes: dict) -> str:
    """A line for each parameter: path, shape, logical axes; then the counts of the groups."""
    boxes = flatten(shapes)
    width = max(map(len, boxes))
    lines, counts = [], {}
    for path, box in boxes.items():
        assert isinstance(box, meta.AxisMetadata), path
        assert len(box.names) == len(box.value.shape), path
        assert axes.ALL.issuperset(box.names), path
        shape = " x ".join(map(str, box.value.shape))
        lines.append(f"{path:{width}}  {shape:24}  {' '.join(box.names)}")
        group = path.split("/")[0]
        counts[group] = counts.get(group, 0) + math.prod(box.value.shape)
    counts["total"] = sum(counts.values())
    return "\n".join(lines + [""] + [f"{n:24}{c:15,}" for n, c in counts.items()])


def count(shapes: dict) -> dict[str, int]:
    """By block of the specification, and in all."""
    found = dict.fromkeys(BLOCKS, 0)
    for path, box in flatten(shapes).items():
        group = path.split("/")[0]
        if group == "language_model":
            head = path.startswith("language_model/lm_head/")
            group = "language_model/lm_head" if head else "language_model without lm_head"
        found[group] += math.prod(box.value.shape)
    return found


@pytest.mark.parametrize("size", llama.SIZES)
def test_golden_table_of_the_decoder(size):
    check_golden(f"parameters/{size}.txt", table(llama_shapes(size)))


@pytest.mark.parametrize("size", eva.SIZES)
def test_golden_table_of_eva(size):
    check_golden(f"parameters/{size}.txt", table(picture_shapes(eva.Eva, eva.SIZES[size])))


@pytest.mark.parametrize("size", clip.VISION_SIZES)
def test_golden_table_of_clips_vision(size):
    shapes = picture_shapes(clip.ClipVision, clip.VISION_SIZES[size])
    check_golden(f"parameters/{size}.txt", table(shapes))


@pytest.mark.parametrize("size", clip.TEXT_SIZES)
def test_golden_table_of_clips_text(size):
    check_golden(f"parameters/{size}.txt", table(text_shapes(clip.TEXT_SIZES[size])))


@pytest.mark.parametrize("size", janus.SIZES)
def test_golden_table_and_counts_of_janus(size):
    shapes = janus_shapes(size)
    check_golden(f"parameters/{size}.txt", table(shapes))
    if size in JANUS:
        found = count(shapes)
        assert found == {block: counts[JANUS[size]] for block, counts in BLOCKS.items()}
        assert sum(found.values()) == TOTALS[JANUS[size]]


def test_the_published_sizes_are_named():
    assert janus.SIZES.keys() >= JANUS.keys()
