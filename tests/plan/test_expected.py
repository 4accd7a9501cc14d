"""What rows are assumed to hold, where there is no data yet."""

import dataclasses

import pytest

from tests.systems.test_janus import SMALL, SYSTEM
from unijax.core import cost
from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout, Mark, Stream
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.plan.expected import TEXT, expected
from unijax.systems.janus import Janus

ROWS, N, SLOTS = SMALL.rows, 4, 9
UND, GEN = (cost.images_of(name) for name in ("und", "gen"))


def mixture(slots=None, **ratios: float) -> DataConfig:
    groups = []
    for name, ratio in ratios.items():
        task = {"und": "describe", "text": "text", "gen": "generate"}[name]
        source = SourceConfig(name=name, task=task, kind="jsonl", path="x")
        groups.append(GroupConfig(name, ratio, (source,)))
    slots = slots or {"und": SLOTS, "gen": SLOTS}
    return dataclasses.replace(SMALL.data, groups=tuple(groups), row_length=4096, slots=slots)


def test_expected_rows_are_full_where_slots_suffice():
    needed = expected(SYSTEM, mixture(und=1.0, text=3.0, gen=0.5), cached=False).needed
    assert needed[cost.TOKENS] == pytest.approx(ROWS * 4096)
    texts = needed[UND] * 3
    assert needed[cost.targets("text")] == pytest.approx(needed[UND] * TEXT["und"][1] + texts * 640)
    assert needed[cost.targets("code")] == pytest.approx(needed[GEN] * N)


def test_expected_rows_have_no_more_images_than_slots():
    rows = expected(SYSTEM, mixture(gen=1.0), cached=True)
    assert rows.needed[GEN] == ROWS * SLOTS
    assert rows.needed[cost.TOKENS] == rows.tokens < ROWS * 4096
    assert not [unit for unit in rows.needed if unit.startswith(cost.encoded_of(""))]


def test_work_is_done_for_empty_slots_and_padding_too():
    rows = expected(SYSTEM, mixture(gen=1.0), cached=False)
    assert rows.needed[UND] == 0
    assert rows.worked[UND] == rows.worked[cost.encoded_of("und")] == ROWS * SLOTS
    assert rows.worked[cost.tokens_of("und")] == ROWS * SLOTS * N
    assert rows.worked[cost.TOKENS] == ROWS * 4096
    assert rows.needed[cost.encoded_of("gen")] == rows.needed[GEN]


def test_images_of_a_kind_that_sees_its_span_have_pairs_of_all_their_tokens():
    causal, whole = (
        expected(one, mixture(gen=1.0, text=1.0), cached=False).needed
        for one in (SYSTEM, Seer(SYSTEM.config))
    )
    more = whole.pop(cost.PAIRS) - causal.pop(cost.PAIRS)
    # Each of N tokens sees those behind it as well.
    assert more == pytest.approx(causal[GEN] * sum(N - 1 - i for i in range(N)))
    assert causal.pop(cost.CAUSAL) == causal[cost.TOKENS]
    assert whole.pop(cost.CAUSAL) == pytest.approx(causal[cost.TOKENS] - causal[GEN] * N)
    assert whole == causal


@dataclasses.dataclass(frozen=True)
class Seer(Janus):
    """One whose images see their whole span."""

    sees_whole = (Kind.GEN,)


@dataclasses.dataclass(frozen=True)
class Sharer(Janus):
    """One whose roles share their slots, of which nothing is encoded ahead."""

    @property
    def layout(self) -> Layout:
        how = {"before": Mark("boi", learned=True), "target": Target.NOISE, "answers": (0, 0)}
        return Layout(
            tuple(Stream(role, "image", Kind.GEN, N, 16, **how) for role in ("und", "gen"))
        )


def test_roles_that_share_slots_share_their_room():
    rows = expected(Sharer(SYSTEM.config), mixture({"image": SLOTS}, und=1.0, gen=2.0), cached=True)
    assert rows.needed[cost.images_of("image")] == pytest.approx(ROWS * SLOTS)
    assert rows.worked[cost.images_of("image")] == ROWS * SLOTS
    assert rows.needed[cost.targets("noise")] == rows.needed[cost.tokens_of("image")]
    # No encoder's outputs are kept for these slots, so it runs in the step.
    assert rows.needed[cost.encoded_of("image")] == rows.needed[cost.images_of("image")]
