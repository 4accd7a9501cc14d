"""The table of sizes of blocks: what is in it, what is found in it, what tuning adds."""

import inspect
import json
import re

import jax
import jax.numpy as jnp
import pytest

from bench import attention_tune
from unijax.ops.attention import block_sizes as table
from unijax.ops.attention.api import IMPLEMENTATIONS, LARGEST_HEAD_DIM
from unijax.ops.attention.block_sizes import ANY, Entry, best_entry, block_sizes
from unijax.ops.attention.cases import Case

BLOCKED = sorted(set(IMPLEMENTATIONS) - {"reference"})


def test_every_entry_has_options_of_its_implementation_and_says_where_they_are_from():
    keys = [e.key for e in table.entries()]
    assert len(set(keys)) == len(keys)
    for e in table.entries():
        options = inspect.signature(IMPLEMENTATIONS[e.implementation]).parameters
        assert e.sizes.keys() == {name for name in options if name.startswith("block")}
        assert e.how.split()[0] in ("tuned", "chosen"), e
        assert re.search(r"python (-m )?bench\b|make ", e.how), e


@pytest.mark.parametrize("name", BLOCKED)
def test_every_implementation_has_sizes_for_all_that_it_runs(name):
    for head_dim in (1, 64, 72, LARGEST_HEAD_DIM):
        assert best_entry(name, "a device of tomorrow", "float16", head_dim).sizes


def entry(device, dtype, head_dim, size):
    return Entry("chunked", device, dtype, head_dim, {"block_q": size, "block_k": size}, "tuned")


def test_the_entry_that_says_most_is_taken(monkeypatch):
    entries = (
        entry(ANY, ANY, 0, 1),
        entry(ANY, "bfloat16", 64, 2),
        entry("A", ANY, 128, 3),
        entry("A", "bfloat16", 64, 4),
        entry("A", "bfloat16", 128, 5),
    )
    monkeypatch.setattr(table, "entries", lambda: entries)

    def found(*case):
        return best_entry("chunked", *case).sizes["block_q"]

    assert found("B", "float32", 64) == 1
    assert found("B", "bfloat16", 64) == 2
    assert found("A", "float32", 72) == 3
    assert found("A", "bfloat16", 64) == 4
    assert found("A", "bfloat16", 72) == 5
    assert found("A", "bfloat16", 256) == 1
    monkeypatch.setattr(table, "target", lambda: ("gpu", "A"))
    assert block_sizes("chunked", 64, jnp.bfloat16, block_q=9, block_k=None) == {
        "block_q": 9,
        "block_k": 4,
    }


def test_tuning_takes_the_quickest_and_leaves_out_what_does_not_run(tmp_path, capsys):
    cases = {
        "first": Case(256, 1, 1, 8),
        "of the same head dim": Case(512, 1, 1, 8),
        "short": Case(4, 1, 1, 16),  # the dense reference's
    }

    def clock(case, implementation, sizes):
        assert (case, implementation) == (cases["first"], "chunked")
        if sizes["block_q"] > 64:
            raise MemoryError("too large")
        return sizes["block_k"] - sizes["block_q"] / 64

    found = attention_tune.tune(cases, "float32", clock, "python -m bench.x --tune")
    kind = jax.devices()[0].device_kind
    [e] = found
    assert e.key == ("chunked", kind, "float32", 8)
    assert e.sizes == {"block_q": 64, "block_k": 32}
    assert e.how.startswith("tuned: python -m bench.x --tune, jax ")
    assert "first: 31.000 ms, 63.000 ms with {'block_q': 64, 'block_k': 64}" in e.how
    assert "too large" in capsys.readouterr().out

    file = tmp_path / "table.json"
    attention_tune.write(found, file)
    written = [Entry(**fields) for fields in json.loads(file.read_text())]
    assert sorted(written, key=lambda e: e.key) == written
    assert {x.key for x in written} == {x.key for x in table.entries()} | {e.key}


def test_tuning_again_replaces(tmp_path, monkeypatch):
    old, new = entry("A", ANY, 64, 32), entry("A", ANY, 64, 128)
    monkeypatch.setattr(attention_tune, "entries", lambda: (old,))
    attention_tune.write([new], tmp_path / "table.json")
    [kept] = json.loads((tmp_path / "table.json").read_text())
    assert Entry(**kept) == new
