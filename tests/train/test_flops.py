"""FLOPs of a step for each of a forward pass, by what trains."""

import pytest

from unijax.core.cost import TOKENS, Cost
from unijax.train.flops import Shares, multiple
from unijax.train.stage import Rule

# Two layers of a decoder and their adapters, a head, a tower.
SIZES = {
    "decoder/layers/kernel": 90,
    "decoder/layers/lora_a": 10,
    "decoder/lm_head": 50,
    "decoder/lm_headroom": 1000,  # no part of the head, though its path begins like it
    "tower/kernel": 30,
}
TOWERS = frozenset({"tower"})


def shares(*trained: str) -> Shares:
    rules = {path: Rule("", frozen=path not in trained) for path in SIZES}
    return Shares(SIZES, rules)


def times(group: str, *trained: str, **how) -> float:
    return multiple(Cost("x", "decoder", group, TOKENS, 1.0, **how), shares(*trained), TOWERS)


def test_what_trains_costs_three_forward_passes():
    assert times("decoder/layers", "decoder/layers/kernel", "decoder/layers/lora_a") == 3
    assert times("decoder/lm_head", "decoder/lm_head") == 3
    assert times("tower", "tower/kernel") == 3


def test_gradients_flow_through_what_is_frozen_but_for_the_input_side():
    assert times("decoder/layers") == 2
    assert times("decoder/lm_head", "decoder/lm_headroom") == 2
    assert times("tower") == 1


@pytest.mark.parametrize(
    ("trained", "want"), [("decoder/layers/lora_a", 2.1), ("decoder/layers/kernel", 2.9)]
)
def test_a_partly_frozen_group_costs_the_share_that_trains_more(trained, want):
    """Adapters of a tenth of the numbers are not three passes through the whole decoder."""
    assert times("decoder/layers", trained) == pytest.approx(want)


def test_products_of_activations_get_all_gradients():
    assert times("") == 3


def test_what_gives_codes_and_what_a_recipe_counts_itself():
    assert times("tower", "tower/kernel", backward=False) == 1
    assert times("decoder/layers", "decoder/layers/kernel", times=2.0) == 2


def test_a_group_without_parameters_is_a_mistake_of_the_recipe():
    with pytest.raises(AssertionError, match="decoder/layer"):
        shares()["decoder/layer"]
