"""Positions of pictures within texts against a loop over tokens, and against transformers'."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.ops.grid_positions import grid_positions

SIDE = 2
POSITIONS = jax.jit(functools.partial(grid_positions, side=SIDE))


def slowly(documents: list[list[int]]) -> tuple[list, list, list, int]:
    """Of documents, each of words (their number) and pictures (0)."""
    position, here, axes, back = [], [], [], 0
    for document in documents:
        at, count = 0, 0
        for part in document:
            tokens = part or SIDE * SIDE
            for i in range(tokens):
                row, column = (0, 0) if part else divmod(i, SIDE)
                time = at + i if part else at
                axes.append([time, time + row, time + column])
                here.append(not part)
                position.append(count)
                count += 1
            at += part or SIDE
        back = count - at
    return position, here, axes, back


PART = st.integers(0, 3)
# A picture that follows another without a word between has all its tokens in the run.
DOCUMENTS = st.lists(
    st.lists(PART, min_size=1, max_size=4).map(lambda parts: [1, *parts]), min_size=1, max_size=4
)


LONGEST = 4 * (1 + 4 * SIDE * SIDE)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS)
def test_positions_are_those_of_a_loop(documents):
    """Documents of a word each before them, so that one program serves all."""
    words = LONGEST - len(slowly(documents)[0])
    position, here, axes, back = slowly([[1]] * words + documents)
    found, drawn = POSITIONS(jnp.asarray([position]), jnp.asarray([here]))
    np.testing.assert_array_equal(found[0], axes)
    assert drawn[0] == back


def test_positions_are_those_of_transformers():
    module = transformers.models.qwen2_5_vl
    kinds = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]])
    vision = module.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig()

    class Asked:
        config = type("Config", (), {"vision_config": vision})()
        get_vision_position_ids = module.modeling_qwen2_5_vl.Qwen2_5_VLModel.get_vision_position_ids

    grids = torch.tensor([[1, 2 * SIDE, 2 * SIDE]] * 2)
    want, delta = module.modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index(
        Asked(), kinds, kinds, image_grid_thw=grids
    )
    here = jnp.asarray(kinds.numpy() == 1)
    found, drawn = grid_positions(jnp.arange(13)[None], here, SIDE)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), -1, 0), want)
    assert int(drawn[0]) == -int(delta[0, 0])
