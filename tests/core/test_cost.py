"""FLOPs by what they are spent on."""

import pytest

from unijax.core import cost
from unijax.core.cost import Cost

COSTS = (
    Cost("decoder", "decoder", "layers", cost.TOKENS, 10.0),
    Cost("decoder", "decoder", "lm_head", cost.targets("text"), 3.0),
    Cost("tower", "tower", "tower", cost.encoded_of("und"), 7.0),
    Cost("search", "tower", "", cost.encoded_of("und"), 5.0, counted=False),
)


def test_parts_of_one_name_are_summed_and_what_is_not_there_is_left_out():
    amounts = {cost.TOKENS: 4.0, cost.targets("text"): 2.0}
    assert cost.forward(COSTS, amounts) == {"decoder": 46.0}
    assert cost.forward(COSTS, amounts | {cost.encoded_of("und"): 2.0}) == {
        "decoder": 46.0, "tower": 14.0,
    }  # fmt: skip


def test_work_beside_the_models_is_not_counted():
    assert "search" not in cost.forward(COSTS, {cost.encoded_of("und"): 1.0})


def test_units_differ_by_their_slots():
    slots = ("und", "gen")
    units = {of(s) for of in (cost.tokens_of, cost.images_of, cost.encoded_of) for s in slots}
    assert len(units) == 6


def test_a_kind_that_nobody_sums_is_refused():
    with pytest.raises(AssertionError):
        Cost("x", "heads", "", cost.TOKENS, 1.0)
