"""Data, and settings of it, that cannot be trained on: said where and why."""

import numpy as np
import pytest

from tests.data.conftest import LAYOUT, RECORDS, small_config
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.data.assemble import assemble
from unijax.data.batch import Cached
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader, fixed_batches


def test_a_state_of_other_data_is_refused(tokenizer):
    loader = Loader(small_config(), LAYOUT, tokenizer, RECORDS)
    state = loader.get_state()
    fewer = RECORDS | {"text": RECORDS["text"][:-1]}
    for config, records, found in (
        (small_config(seed=1), RECORDS, "data state: found a state of other data"),
        (small_config(), fewer, "data: found other records than the run began with"),
    ):
        with pytest.raises(UserError, match=found):
            Loader(config, LAYOUT, tokenizer, records).set_state(state)
    Loader(small_config(prefetch=2, decode_threads=5), LAYOUT, tokenizer, RECORDS).set_state(state)


def test_pictures_without_a_cached_value_are_named(tokenizer):
    config = small_config()

    def missing(key):
        raise KeyError(key)

    cached = {"gen": Cached("codes", missing, (9,), np.int32)}
    with pytest.raises(UserError, match=r"draw\[\d+\] \(id 'p\d+'\): found no cached codes"):
        next(Loader(config, LAYOUT, tokenizer, RECORDS, cached))


def test_a_bad_picture_is_named_by_its_record(tokenizer):
    bad = [record | {"image": b"no picture"} for record in RECORDS["draw"]]
    for prefetch in (0, 2):
        loader = Loader(small_config(prefetch=prefetch), LAYOUT, tokenizer, RECORDS | {"draw": bad})
        with pytest.raises(
            UserError, match=r"draw\[\d+\] \(id 'p\d+'\): found 10 bytes that are no"
        ):
            next(loader)


def test_rows_that_processes_cannot_share_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"data\.rows: found 4 rows and 3 processes"):
        Loader(small_config(), LAYOUT, tokenizer, RECORDS, None, 0, 3)


def test_padding_inside_a_row_is_refused_by_row_and_position(tokenizer, monkeypatch):
    """What would be a decreasing end of what its queries see."""
    rows = []

    def assemble_badly(*args):
        row = assemble(*args)
        rows.append(row)
        if len(rows) == 2:
            row.kind[5] = Kind.PAD
        return row

    monkeypatch.setattr("unijax.data.batch.assemble", assemble_badly)
    with pytest.raises(UserError, match=r"row 1, position 6: found decreasing kv_start"):
        fixed_batches(small_config(), LAYOUT, tokenizer, 1, RECORDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "rows"}, "data.unit: found 'rows'; expected one of samples, tokens"),
        ({"overlong": "cut"}, "data.overlong: found 'cut'"),
        ({"template": "janu"}, "data.template: found 'janu'"),
        ({"rows": 0}, "data.rows: found 0; expected at least 1"),
        ({"seed": -1}, "data.seed: found -1; expected at least 0"),
        ({"groups": (GroupConfig("text", float("nan"), ()),)}, "data.groups.text.ratio: found nan"),
        ({"groups": (GroupConfig("text", float("inf"), ()),)}, "data.groups.text.ratio: found inf"),
        ({"groups": (GroupConfig("text", 1.0, ()),) * 2}, "found the group name 'text' twice"),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "text", limit=-5),)),)},
            "data.groups.text.a.limit: found -5; expected at least 0",
        ),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "text", weight=np.nan),)),)},
            "data.groups.text.a.weight: found nan; expected a finite number",
        ),
        ({"p_drop_condition": 1.5}, "data.p_drop_condition: found 1.5; expected a probability"),
        ({"row_length": 11}, "data.slots.gen: found 9 tokens an image and rows of 11"),
        ({"slots": {"gen": -1}}, "data.slots.gen: found -1; expected at least 0"),
        ({"slots": {"made": 1}}, "data.slots: found 'made'; expected one of und, gen"),
        (
            {"slots": {"und": 3, "gen": 0}},
            "data.groups.gen.draw: found the task 'generate' without slots for its images (gen)",
        ),
        (
            {"slots": {"und": 3}},
            "data.groups.gen.draw: found the task 'generate' without slots for its images (gen); "
            "expected data.slots.gen",
        ),
        ({"groups": ()}, "data.groups: found no group with a ratio above 0"),
        ({"groups": (GroupConfig("x", 1.0, ()),)}, "data.groups: found 'x'"),
        ({"groups": (GroupConfig("und", 1.0, ()),)}, "found no source with a weight above 0"),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "speak"),)),)},
            "data.groups.text.a.task: found 'speak'",
        ),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "text", kind="csv"),)),)},
            "data.groups.text.a.kind: found 'csv'",
        ),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "text"),) * 2),)},
            "data.groups: found the source name 'a' twice",
        ),
        (
            {"groups": (GroupConfig("text", 1.0, (SourceConfig("a", "text", from_step=3),)),)},
            "data.groups.text: found no source with a weight above 0 in step 0",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(tokenizer, changes, message):
    with pytest.raises(UserError) as error:
        Loader(small_config(**changes), LAYOUT, tokenizer, RECORDS)
    assert message in str(error.value)
