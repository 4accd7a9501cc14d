"""Stopping and resuming, what is frozen, what is written."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.logs import lines
from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import kinds, setup
from unijax.train.checkpoint import read_params, read_run, signed
from unijax.train.loop import LoopConfig, fit, validation
from unijax.train.stage import Knot, OptimizerConfig, Rule, match_rules

RUN = {"stage": "toy", "config": {"some": "json"}}


def run(
    run_dir: pathlib.Path, stage=None, stop_at=None, batches=None, evaluators=None,
    description=RUN, keeper=None, **loop,
):  # fmt: skip
    stage = stage or toy_stage()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), stage, mesh, "data", jnp.float32, seed=3)
    state = trainer.begin(trainer.init(7))
    config = LoopConfig(**({"log_every": 5, "keep": 3} | loop))
    return fit(
        state,
        trainer,
        batches or ToyBatches(),
        stage.steps,
        config,
        run_dir,
        description,
        evaluators or {},
        stop_at,
        [keeper] if keeper else [],
    )


def same_bits(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def test_resuming_gives_the_bits_of_never_stopping(tmp_path):
    stage = toy_stage(ema_decay=0.9)
    whole_batches = ToyBatches()
    whole = run(tmp_path / "whole", stage, batches=whole_batches)
    first, second = ToyBatches(), ToyBatches()
    run(tmp_path / "cut", stage, stop_at=7, batches=first)
    resumed = run(tmp_path / "cut", stage, batches=second)
    assert same_bits(whole, resumed)
    assert first.served + second.served == whole_batches.served == list(range(20))


def test_log_after_a_resume_is_the_log_of_one_run(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut", stop_at=10)
    # A run killed while it wrote: a line of a future that is undone, and half a line.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as f:
        f.write('{"step": 15, "loss": 9}\n{"step": 2')
    run(tmp_path / "cut")
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert [row["step"] for row in lines(tmp_path / "cut")] == [5, 10, 15, 20]


def test_frozen_parameters_have_no_optimizer_state_and_do_not_move(tmp_path):
    stage = toy_stage(rules=(Rule("encoder/", frozen=True), Rule("head/")))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), stage, mesh, "data", jnp.bfloat16, seed=3)
    fresh = trainer.init(7)
    encoder = np.asarray(fresh["encoder"]["kernel"].astype(jnp.bfloat16))
    state = trainer.begin(fresh)
    assert state.frozen["encoder"]["kernel"].dtype == jnp.bfloat16
    moments = [x.shape for x in jax.tree.leaves(state.opt_state)]
    assert (4, 8) not in moments
    state, _ = trainer.train_step(state, trainer.put(next(ToyBatches())))
    assert np.array_equal(np.asarray(state.frozen["encoder"]["kernel"]), encoder)


def test_learning_rate_multiple_scales_the_first_step():
    def first_step(multiple):
        rules = (Rule("encoder/", lr_multiple=multiple), Rule("head/"))
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        trainer = setup.build(Toy(), toy_stage(rules=rules), mesh, "data", jnp.float32, seed=3)
        before = jax.device_get(trainer.init(7))
        after, _ = trainer.train_step(
            trainer.begin(trainer.init(7)), trainer.put(next(ToyBatches()))
        )
        return jax.tree.map(lambda a, b: np.asarray(a) - b, jax.device_get(after.params), before)

    whole, half = first_step(1.0), first_step(0.5)
    np.testing.assert_allclose(half["encoder"]["kernel"], whole["encoder"]["kernel"] / 2, atol=1e-7)
    np.testing.assert_allclose(half["head"]["kernel"], whole["head"]["kernel"], atol=1e-7)


def test_groups_are_clipped_and_scheduled_apart(tmp_path):
    stage = toy_stage(
        rules=(Rule("encoder/", optimizer="slow"), Rule("head/")),
        optimizers={
            "main": OptimizerConfig(learning_rate=0.02),
            "slow": OptimizerConfig(learning_rate=0.02, schedule="cosine", warmup_steps=4),
        },
    )
    run(tmp_path, stage)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"grad_norm/main", "grad_norm/slow"} <= rows[0].keys()
    assert rows[-1]["learning_rate/main"] == pytest.approx(0.02)
    assert rows[-1]["learning_rate/slow"] < 0.004 < rows[0]["learning_rate/slow"]


def test_validation_divides_sums_over_all_batches(tmp_path):
    stage = toy_stage()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), stage, mesh, "data", jnp.float32, seed=3)
    source = ToyBatches(9)
    held_out = [next(source), next(source)]
    held_out[1]["weight"][4:] = 0  # so that a mean of means would be another number
    evaluator = validation("validation", trainer.eval_step, held_out, trainer.put)
    final = run(tmp_path, evaluators={"validation": evaluator})
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    flat = tree.flatten(jax.device_get(final.params))
    errors, weights = 0.0, 0.0
    for b in held_out:
        hidden = np.maximum(b["x"] @ flat["encoder/kernel"], 0)
        y = (hidden @ flat["head/kernel"] + flat["head/bias"])[:, 0]
        errors += np.sum(b["weight"] * (y - b["y"]) ** 2)
        weights += np.sum(b["weight"])
    assert rows[-1]["validation/error"] == pytest.approx(errors / weights, rel=1e-5)


def test_checkpoint_parameters_are_read_alone_and_prefer_the_average(tmp_path):
    final = run(
        tmp_path, toy_stage(ema_decay=0.9, rules=(Rule("encoder/", frozen=True), Rule("head/")))
    )
    assert read_run(tmp_path)["stage"] == "toy"
    assert read_run(tmp_path)["step"] == 20
    params = read_params(tmp_path)
    assert same_bits(params["head"], final.ema["head"])
    assert not same_bits(params["head"], final.params["head"])
    assert same_bits(params["encoder"], final.frozen["encoder"])


def test_checkpoint_of_another_size_is_refused_with_names(tmp_path):
    run(tmp_path)
    other = {
        "encoder": {"kernel": jax.ShapeDtypeStruct((4, 9), jnp.float32)},
        "tail": {"kernel": jax.ShapeDtypeStruct((8, 1), jnp.float32)},
    }
    with pytest.raises(UserError) as e:
        read_params(tmp_path, other)
    text = str(e.value)
    assert "1 parameters missing (tail/kernel)" in text
    assert "2 parameters unexpected (head/bias, head/kernel)" in text
    assert "encoder/kernel (4, 8) instead of (4, 9)" in text


def test_checkpoint_of_another_stage_is_refused(tmp_path):
    run(tmp_path, stop_at=5)
    with pytest.raises(UserError, match="checkpoints of stage 'toy'"):
        run(tmp_path, description=RUN | {"stage": "other"})


def described(stage, **changes) -> dict:
    return {
        "stage": "toy",
        "config": {"system": "toy", "stage": dataclasses.asdict(stage)} | changes,
    }


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rules": (Rule("encoder/", frozen=True), Rule("head/"))}, r"stage.rules.0.frozen=False"),
        ({"rules": (Rule(""),)}, r"stage.rules.0.pattern='encoder/'"),
        ({"ema_decay": 0.9}, r"stage.ema_decay=0.0"),
        (
            {"optimizers": {"main": OptimizerConfig(learning_rate=0.02, weight_decay=0.1)}},
            r"stage.optimizers.main.weight_decay=0.0",
        ),
        (
            {"optimizers": {"main": OptimizerConfig(learning_rate=0.02, kind="sgd")}},
            r"stage.optimizers.main.kind='adamw'",
        ),
        (
            {
                "rules": (Rule("encoder/", optimizer="other"), Rule("head/")),
                "optimizers": dict.fromkeys(("main", "other"), OptimizerConfig(learning_rate=0.02)),
            },
            r"no stage.optimizers.other.b1",
        ),
    ],
)
def test_resuming_with_other_trained_parts_is_refused(tmp_path, changes, key):
    stage = toy_stage()
    run(tmp_path, stage, stop_at=5, description=described(stage))
    other = toy_stage(**changes)
    with pytest.raises(UserError, match=f"checkpoints of a run with {key}; expected"):
        run(tmp_path, other, description=described(other))


def test_a_schedule_may_change_when_a_run_goes_on(tmp_path):
    stage = toy_stage()
    run(tmp_path, stage, stop_at=5, description=described(stage))
    knots = (Knot(0, 1.0), Knot(-1, 0.1, "cosine"))
    other = OptimizerConfig(learning_rate=0.01, b1=0.8, schedule="knots", knots=knots)
    other = toy_stage(optimizers={"main": other})
    assert int(run(tmp_path, other, description=described(other)).step) == 20


def test_momentum_may_not_come_when_a_run_goes_on(tmp_path):
    def sgd(b1):
        return toy_stage(optimizers={"main": OptimizerConfig(0.02, kind="sgd", b1=b1)})

    run(tmp_path, sgd(0.0), stop_at=5, description=described(sgd(0.0)))
    with pytest.raises(UserError, match=r"a run with stage\.optimizers\.main\.b1=0\.0"):
        run(tmp_path, sgd(0.9), description=described(sgd(0.9)))


def test_the_state_of_another_optimizer_is_refused_by_its_version(tmp_path, monkeypatch):
    run(tmp_path, stop_at=5)
    assert read_run(tmp_path)["optimizers"] == {"main": "adamw 1"}
    monkeypatch.setitem(kinds.VERSIONS, "adamw", 2)
    with pytest.raises(UserError, match="state 'adamw 1' of the optimizer 'main'; expected 'adam"):
        run(tmp_path)


def test_a_checkpoint_of_before_that_names_no_optimizer_goes_on(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_at=5)
    path = tmp_path / "cut" / "checkpoints" / "5" / "run" / "metadata"
    found = json.loads(path.read_text())
    del found["optimizers"], found["digest"]
    path.write_text(json.dumps(signed(found)))
    assert same_bits(run(tmp_path / "cut"), whole)


def test_resuming_another_size_or_system_is_refused(tmp_path):
    stage = toy_stage()
    saved = described(stage, model={"d": 4})
    run(tmp_path, stage, stop_at=5, description=saved)
    with pytest.raises(UserError, match=r"a run with model\.d=4; expected model\.d=8"):
        run(tmp_path, stage, description=described(stage, model={"d": 8}))
    with pytest.raises(UserError, match="a run with system='toy'"):
        run(tmp_path, stage, description=described(stage, model={"d": 4}, system="other"))


@pytest.mark.parametrize("shorter", [{"stop_at": 7}, {"stage": toy_stage(steps=7)}])
def test_a_run_that_is_past_its_end_does_not_train_on(tmp_path, shorter):
    """It once trained for ever, and the newest checkpoints replaced the good ones."""
    run(tmp_path, stop_at=10)
    with pytest.raises(UserError, match="found a checkpoint of step 10; expected one of step 7"):
        run(tmp_path, **shorter)
    assert read_run(tmp_path)["step"] == 10
    assert lines(tmp_path)[-1]["step"] == 10


def test_what_may_change_when_a_run_goes_on_is_told(tmp_path, capsys):
    stage = toy_stage()
    run(tmp_path, stage, stop_at=5, description=described(stage))
    longer = toy_stage(steps=25)
    assert int(run(tmp_path, longer, description=described(longer)).step) == 25
    assert "resuming with changes: stage.steps 20 -> 25" in capsys.readouterr().err


def test_resuming_a_checkpoint_of_another_schema_is_refused(tmp_path):
    run(tmp_path, stop_at=5)
    path = tmp_path / "checkpoints" / "5" / "run" / "metadata"
    found = json.loads(path.read_text()) | {"schema": 9}
    del found["digest"]
    path.write_text(json.dumps(signed(found)))
    with pytest.raises(UserError, match="checkpoint schema 9; expected schema 2"):
        run(tmp_path)


def test_a_directory_without_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        read_run(tmp_path / "nothing")


def test_every_parameter_needs_a_rule_and_every_rule_a_parameter():
    paths = ["encoder/kernel", "head/kernel"]
    with pytest.raises(UserError, match="no rule for parameter 'head/kernel'"):
        match_rules(toy_stage(rules=(Rule("encoder/"),)), paths)
    with pytest.raises(UserError, match="patterns that decide nothing: \\['tail/'\\]"):
        match_rules(toy_stage(rules=(Rule("encoder/"), Rule("head/"), Rule("tail/"))), paths)
    with pytest.raises(UserError, match="optimizer 'other'"):
        match_rules(toy_stage(rules=(Rule("", optimizer="other"),)), paths)


def test_periods_that_would_cut_an_average_are_refused():
    with pytest.raises(UserError, match=r"a multiple of loop\.log_every"):
        LoopConfig(log_every=5, save_every=7)


def test_a_step_that_moves_something_from_the_host_is_refused(tmp_path, monkeypatch):
    """What is not put beforehand would be waited for by every step."""
    built = setup.build

    def without_put(*args, **kwargs):
        return dataclasses.replace(built(*args, **kwargs), put=lambda batch: batch)

    monkeypatch.setattr(setup, "build", without_put)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(tmp_path)


@pytest.mark.parametrize("killed_in", ["first", "second"])
def test_an_evaluation_that_a_kill_cut_short_is_made_again_and_logged_once(tmp_path, killed_in):
    """Both at a step that was saved, and each time it was due."""
    alive = False

    def evaluator(name):
        def evaluate(state, step, writers):
            if step == 10 and name == killed_in and not alive:
                raise KeyboardInterrupt
            writers.scalars(step, {f"{name}/value": float(step)})

        return evaluate

    evaluators = {name: evaluator(name) for name in ("first", "second")}
    periods = {"save_every": 5, "eval_every": 5, "evaluators": evaluators}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", **periods)
    alive = True
    run(tmp_path / "cut", **periods)
    run(tmp_path / "whole", **periods)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    steps = [row["step"] for row in lines(tmp_path / "cut") if "second/value" in row]
    assert steps == [5, 10, 15, 20]
