"""The work of LMFusion and LLaVAFusion in a plan, against counts made by hand."""

import dataclasses

import pytest

from tests.systems import test_llavafusion, test_lmfusion
from unijax.core import cost, tree
from unijax.core.system import init_shapes
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.plan.expected import expected
from unijax.plan.work import work_of
from unijax.train.stage import match_rules

ROWS, LENGTH = 3, 1024
SLOTS = {"und": 2, "image": 5}
N = test_lmfusion.CONFIG.num_tokens
SEEN = test_llavafusion.CONFIG.picture_tokens
# Width 32, 4 heads and 2 of keys of 8, SwiGLU of 48, two layers; 2 FLOPs a multiply-add.
ATTENTION = 2 * 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32)
SWIGLU = 2 * 2 * 3 * 32 * 48
LAYERS = ATTENTION + SWIGLU
FROZEN, TRAINED = 2, 3  # of a forward pass: gradients of activations, of weights too
POSITIONS = ROWS * LENGTH
DRAWN = ROWS * SLOTS["image"] * N


def work(system, small):
    """Of rows with rooms for pictures to read and to draw, of documents of either and of texts."""
    tasks = {"und": "question", "text": "text", "gen": "caption_to_image"}
    if "und" not in system.layout.slots:
        tasks["und"] = "image_to_caption"
    groups = []
    for name, task in tasks.items():
        source = SourceConfig(name=name, task=task, kind="jsonl", path="x")
        groups.append(GroupConfig(name, 1.0, (source,)))
    slots = {name: SLOTS[name] for name in system.layout.slots}
    data = DataConfig(groups=tuple(groups), row_length=LENGTH, rows=ROWS, slots=slots)
    rows = expected(system, data, cached=True)
    rules = match_rules(small.stage, list(tree.flatten(init_shapes(system))))
    return rows, work_of(system, rules, "none", (rows.tokens, "token"), rows.needed, rows.worked)


def test_each_side_of_an_lmfusion_works_what_it_is_given():
    """The frozen side all positions of a row as they lie, the twin the places of its slots."""
    rows, found = work(test_lmfusion.SMALL.system, test_lmfusion.SMALL)
    parts = found.parts
    assert parts["decoder"].executed == FROZEN * POSITIONS * LAYERS
    assert parts["image twin"].executed == TRAINED * DRAWN * LAYERS
    drawn = rows.needed[cost.images_of("image")] * N
    assert 0 < drawn <= DRAWN
    assert parts["image twin"].true == pytest.approx(TRAINED * drawn * LAYERS)
    assert parts["decoder"].true == pytest.approx(FROZEN * (rows.tokens - drawn) * LAYERS)


def test_a_shallow_twin_shares_attention():
    system = dataclasses.replace(test_lmfusion.SMALL.system, config=test_lmfusion.SHALLOW)
    parts = work(system, test_lmfusion.SMALL)[1].parts
    assert parts["decoder, attention"].executed == FROZEN * POSITIONS * ATTENTION
    assert parts["decoder"].executed == FROZEN * POSITIONS * SWIGLU
    assert parts["image twin"].executed == TRAINED * DRAWN * SWIGLU


def test_what_is_read_is_worked_once_by_the_frozen_side_and_not_by_the_twin():
    """Its places in the row are among all that the frozen side works; no room adds to them."""
    system = test_llavafusion.SYSTEM
    rows, found = work(system, test_llavafusion.SMALL)
    parts = found.parts
    drawn, read = (rows.needed[cost.images_of(name)] for name in ("image", "und"))
    assert min(drawn, read) > 0
    assert parts["decoder"].executed == FROZEN * POSITIONS * LAYERS
    assert parts["decoder"].true == pytest.approx(FROZEN * (rows.tokens - drawn * N) * LAYERS)
    assert parts["image twin"].executed == TRAINED * DRAWN * LAYERS
    assert parts["image twin"].true == pytest.approx(TRAINED * drawn * N * LAYERS)
    # Nothing before the projector trains, so it gets no gradients; nor does the tower.
    config = system.config.vision
    assert config.num_tokens == SEEN
    projector = 2 * SEEN * (config.hidden_size * 32 + 32 * 32)
    assert parts["projector"].executed == ROWS * SLOTS["und"] * projector
    assert "aligner" in found.forward_only
