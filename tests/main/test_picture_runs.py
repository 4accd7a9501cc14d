"""Runs on pictures alone, one from another: MIM, CLIP from its tower, a probe of both."""

import numpy as np
import pytest

from tests import logs
from tests.long import long
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.main import config as config_lib
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params

SMALL = {"hidden_size": 16, "intermediate_size": 42, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "rope_grid": 2}  # fmt: skip


def small(spec: str, init=None, **changes):
    """A demo's config with small towers, few pictures and a few steps."""
    values = config_lib.load(f"configs/{spec}").unlock()
    values.model.vision.update(SMALL)
    if "teacher" in values.model:
        values.model.teacher.update({n: SMALL[n] for n in SMALL if n != "rope_grid"})
    values.init = init or {}
    values.stage.steps = 3
    values.stage.optimizers.main.warmup_steps = 0
    values.loop = {"log_every": 1, "eval_every": 3, "writers": ("jsonl",)}
    data = values.data
    data.size, data.batch, data.prefetch = 16, 8, 1
    data.sources = [s for s in data.sources if s["kind"] == "shipped"]
    values.validation.batches = 1
    for group in values.validation.groups:
        group["sources"] = [s for s in group["sources"] if s["kind"] == "shipped"]
    for source in (*data.sources, *values.validation.groups[0]["sources"]):
        source["limit"] = 24
    for name, value in changes.items():
        setattr(values, name, value)
    return resolve(values)


@pytest.fixture(scope="module")
def mim(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("mim")
    train(small("mim_demo.py"), run_dir)
    return run_dir


def last(run_dir) -> dict:
    return {name: value for row in logs.lines(run_dir) for name, value in row.items()}


def tower_of(run_dir) -> dict:
    return tree.flatten(read_params(run_dir)["vision_model"])


def test_mim_trains_on_random_crops_and_is_judged_on_whole_pictures(mim):
    rows = last(mim)
    assert -1 <= rows["mim/loss"] <= 1
    assert -1 <= rows["validation/mim/loss"] <= 1


def test_features_of_the_teacher_are_computed_once_where_pictures_stay_alike(tmp_path):
    runs = {}
    for cached in (True, False):
        run = small("mim_demo.py", cache_frozen=cached)
        data = to_json(run, whole=True)
        data["data"]["crop"] = "centre"
        train(resolve(data), tmp_path / str(cached))
        runs[cached] = [row["loss"] for row in logs.lines(tmp_path / str(cached)) if "loss" in row]
    assert (tmp_path / "True" / "cache").exists()
    np.testing.assert_allclose(runs[True], runs[False], rtol=1e-4)


def test_random_crops_cannot_be_cached(tmp_path):
    with pytest.raises(UserError, match=r"cache_frozen: found data\.crop='random'"):
        train(small("mim_demo.py", cache_frozen=True), tmp_path / "run")


@long
def test_clip_begins_with_the_tower_of_mim_and_names_held_out_classes(mim, tmp_path):
    run = small("clip_demo.py", {"vision_model": str(mim)})
    train(run, tmp_path, stop_at=1)
    before, after = tower_of(mim), tower_of(tmp_path)
    fresh = {name for name in after if "inner_attn_ln" in name}
    assert after.keys() - before.keys() == fresh
    assert before.keys() - after.keys() == {"embeddings/mask_token"}
    assert fresh
    moved = {n: np.abs(after[n] - before[n]).max() for n in after.keys() & before.keys()}
    assert 0 < max(moved.values()) < 2e-3  # a step of the rate 1e-3
    train(run, tmp_path)
    assert 0 <= last(tmp_path)["zero_shot/accuracy"] <= 1


def test_the_scale_of_logits_is_clamped_after_every_step(tmp_path):
    run = small("clip_demo.py:random")
    values = to_json(run, whole=True)
    assert values["stage"]["rules"][0]["pattern"] == "similarity/scale"
    values["stage"]["rules"][0]["clamp"] = [0.0, 2.0]
    train(resolve(values), tmp_path)
    scales = [row["scale"] for row in logs.lines(tmp_path) if "scale" in row]
    assert scales[0] == pytest.approx(1 / 0.07)  # as it begins
    assert scales[1] == pytest.approx(np.exp(2.0))
    assert scales[2] <= scales[1]  # it may fall


@pytest.mark.parametrize("how", ["probe", "finetune"])
def test_pictures_are_classified(how, mim, tmp_path):
    run = small(f"classify_demo.py:{how}", {"vision_model": str(mim)})
    train(run, tmp_path)
    assert 0 <= last(tmp_path)["validation/class/accuracy"] <= 1
    before, after = tower_of(mim), tower_of(tmp_path)
    moved = {name for name, x in after.items() if not np.array_equal(x, before[name])}
    assert (moved == set()) if how == "probe" else moved
    assert (tmp_path / "cache").exists() == (how == "probe")


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        (
            "clip_demo.py:random",
            {"data.text_length": 33},
            r"data.text_length: found 33; expected 1",
        ),
        ("clip_demo.py:random", {"validation.batches": 0}, r"validation.prompts: found 4 for the"),
        ("clip_demo.py:random", {"model.text.vocab_size": 99}, r"expected ids below .* 99"),
        (
            "classify_demo.py:finetune",
            {"cache_frozen": "true"},
            r"cache_frozen: found vision_model, of whose \d+ parameters \d+ are trained",
        ),
        ("mim_demo.py", {"data.size": 24}, r"pictures: found 24 x 24 pixels; expected 16 x 16"),
        ("mim_demo.py", {"data.batch": 7, "accumulate": 2}, r"data.batch: found 7 in 2 parts"),
        (
            "classify_demo.py:random",
            {"data.classes": "flags,objects"},
            r"data.classes: found 2; expected 9 names",
        ),
    ],
)
def test_mistakes_are_told(spec, overrides, message, tmp_path):
    run = small(spec)
    whole = to_json(run, whole=True)
    for key, value in overrides.items():
        config_lib.override(whole, f"{key}={value}")
    with pytest.raises(UserError, match=message):
        train(resolve(whole), tmp_path / "run")
    assert not (tmp_path / "run").exists()
