"""Runs that a run starts from, trained with it."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.long import long
from tests.main import tiny
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params


@pytest.fixture(scope="module")
def first():
    config = tiny.get_config().unlock()
    config.stage.steps, config.stage.ema_decay = 1, 0.0
    config.validation.batches = config.validation.samples = 0
    return resolve(config)


def with_it(first, **changes):
    """A step of everything else behind one of the first run, whose decoder it keeps."""
    init = {"language_model": "base:language_model"}
    frozen = {"pattern": "language_model/", "frozen": True}
    values = to_json(first, whole=True) | {"before": {"base": to_json(first)}, "init": init}
    values["stage"]["rules"] = [frozen, *values["stage"]["rules"]]
    return resolve(values | changes)


@long
def test_it_is_trained_once_and_started_from(first, tmp_path):
    run, here = with_it(first), tmp_path / "run"
    state = train(run, here)
    place = here / "before" / "base"
    base = read_params(place)["language_model"]
    mine = read_params(here)["language_model"]
    jax.tree.map(np.testing.assert_array_equal, base, mine)
    log = (place / "metrics.jsonl").read_bytes()
    assert int(train(run, here).step) == int(state.step) == 1
    assert (place / "metrics.jsonl").read_bytes() == log, "trained again"


def test_its_config_is_changed_and_recorded_like_any(first):
    run = with_it(first)
    longer = resolve(to_json(run), ["before.base.stage.steps=7"])
    assert longer.before["base"].stage.steps == 7
    assert resolve(to_json(longer)) == longer
    assert "before" not in to_json(first), "what has none is recorded as it always was"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("base", {"seeed": 1}, r"before\.base: found unknown key 'seeed'"),
        ("base", {"system": "janu"}, r"before\.base\.system: .*'janus'"),
        ("../base", {}, r"before: found '\.\./base'; expected a name of letters"),
    ],
)
def test_a_mistake_in_it_is_told_by_its_place(first, name, change, message):
    with pytest.raises(UserError, match=message):
        with_it(first, before={name: to_json(first) | change})


def test_a_group_that_it_does_not_have_is_told(first, tmp_path):
    run = with_it(first, init={"language_model": "base:decoder"})
    with pytest.raises(UserError, match=r"init\.language_model: .*no parameter group 'decoder'"):
        train(run, tmp_path / "run")
    assert (tmp_path / "run" / "before" / "base" / "checkpoints").is_dir(), "a finished run is lost"


def test_other_data_of_it_is_another_run(first):
    run = with_it(first)
    other = resolve(to_json(run), ["before.base.seed=1"])
    assert dataclasses.replace(other, before=run.before) == run
    assert other != run
