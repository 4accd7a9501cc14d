"""Steps that are not finite are not applied; what follows is the config's word; spikes are told."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.logs import events, lines
from tests.train.test_loop import run, same_bits
from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.core.errors import UserError
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import setup
from unijax.train.events import Events
from unijax.train.guard import LEAST, SPIKE, Guard, spike_limit
from unijax.train.loop import LoopConfig
from unijax.train.metrics import APPLIED, PART_NORM
from unijax.train.stage import OptimizerConfig

STAGE = toy_stage(
    ema_decay=0.9,
    optimizers={"main": OptimizerConfig(learning_rate=0.02, schedule="cosine")},
)


class Poisoned(ToyBatches):
    """Some batches hold a value that is not finite. May end the run before one is drawn."""

    def __init__(self, *bad: int, kill_at: int = -1):
        super().__init__()
        self._bad, self._kill_at = bad, kill_at

    def __next__(self):
        if self._drawn == self._kill_at:
            raise KeyboardInterrupt
        bad = self._drawn in self._bad
        batch = super().__next__()
        if bad:
            batch["x"][3, 1] = np.nan
        return batch


def by_hand(draws: list[int | None], steps: int = 20):
    """The state after training on these batches in turn; None is a step that changes nothing."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), STAGE, mesh, "data", jnp.float32, seed=3)
    state = trainer.begin(trainer.init(7))
    batches = ToyBatches()
    for draw in draws:
        if draw is None:
            kept = jax.tree.map(jnp.copy, state)
            moved, _ = trainer.train_step(state, trainer.put(next(batches)))
            scheduled = {  # chain: clip, adam, schedule
                name: (*kept.opt_state[name][:-1], moved.opt_state[name][-1])
                for name in kept.opt_state
            }
            state = kept.replace(step=moved.step, opt_state=scheduled)
        else:
            batches.set_state({"drawn": draw})
            state, _ = trainer.train_step(state, trainer.put(next(batches)))
    assert int(state.step) == steps
    return state


def test_a_step_that_is_not_finite_is_not_applied_and_told(tmp_path):
    state = run(tmp_path, STAGE, batches=Poisoned(7), non_finite="skip")
    assert same_bits(state, by_hand([*range(7), None, *range(8, 20)]))
    (event,) = events(tmp_path)
    assert event["event"] == "not_finite"
    assert event["step"] == 8
    assert event["action"] == "skip"
    assert event["documents"] == {"7": "toy/7"}
    assert event["loss"] == "nan"
    assert event["gradient_norms"] == {"encoder": "nan", "head": "nan"}
    rows = lines(tmp_path)
    assert [row.get("steps_not_applied") for row in rows] == [None, 1, None, None]
    assert all(np.isfinite(value) for row in rows for value in row.values())


def test_averages_of_the_log_are_over_the_steps_that_were_applied(tmp_path):
    run(tmp_path / "some", STAGE, batches=Poisoned(5, 6, 8), non_finite="skip")
    run(tmp_path / "none", STAGE, batches=Poisoned(*range(5, 10)), non_finite="skip")
    row = lines(tmp_path / "some")[1]
    assert row["steps_not_applied"] == 3
    assert row["data/rows"] == 16
    assert {"loss", "error", "grad_norm/main", "grad_norm_of/encoder"} <= row.keys()
    row = lines(tmp_path / "none")[1]
    assert row["steps_not_applied"] == 5
    assert "loss" not in row


@pytest.mark.parametrize("policy", ["stop", "skip", "roll_back"])
def test_a_run_stops_where_its_config_says_so(tmp_path, policy):
    limit = 0 if policy == "stop" else 1
    with pytest.raises(UserError) as e:
        run(tmp_path, STAGE, batches=Poisoned(*range(7, 20)), save_every=5,
            non_finite=policy, max_non_finite=limit)  # fmt: skip
    # Going back to step 5 after step 9 was dispatched, the next bad batch is the sixth step.
    step = {"stop": 8, "skip": 9, "roll_back": 6}[policy]
    assert str(e.value).startswith(f"step {step}: found loss nan, gradient of encoder nan")
    told = events(tmp_path)
    assert [event["action"] for event in told] == [policy] * limit + ["stop"]
    assert f"inspect the batch (toy/{min(map(int, told[-1]['documents']))};" in str(e.value)


def test_roll_back_goes_on_from_the_last_checkpoint_with_the_data_that_follows(tmp_path):
    """The 13th step is judged once the 14th is dispatched: batches 10 to 13 are passed over."""
    more = {"save_every": 5, "non_finite": "roll_back"}
    batches = Poisoned(12)
    state = run(tmp_path / "whole", STAGE, batches=batches, **more)
    assert batches.served == [*range(14), *range(14, 24)]
    assert same_bits(state, by_hand([*range(10), *range(14, 24)]))
    assert [row["step"] for row in lines(tmp_path / "whole")] == [5, 10, 15, 20]
    # Killed before the next checkpoint, it finds the same step and goes back again.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", STAGE, batches=Poisoned(12, kill_at=16), **more)
    resumed = run(tmp_path / "cut", STAGE, batches=Poisoned(12), **more)
    assert same_bits(state, resumed)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert [event["step"] for event in events(tmp_path / "cut")] == [13, 13]


def test_roll_back_before_the_first_checkpoint_is_due_begins_again(tmp_path):
    state = run(tmp_path, STAGE, batches=Poisoned(2), non_finite="roll_back")
    assert same_bits(state, by_hand([*range(4, 24)]))


def test_the_last_step_of_a_period_is_judged_before_it_is_saved(tmp_path):
    """Step 10 is the newest when a save is due: it must not be in a checkpoint, unjudged."""
    state = run(tmp_path, STAGE, batches=Poisoned(9), save_every=5, non_finite="roll_back")
    assert same_bits(state, by_hand([*range(5), *range(10, 25)]))


def test_the_count_of_steps_that_were_skipped_outlives_a_restart(tmp_path):
    more = {"non_finite": "skip", "max_non_finite": 2}
    run(tmp_path, STAGE, batches=Poisoned(3, 4), stop_at=10, **more)
    with pytest.raises(UserError, match=r"^step 13: .*, 2 such steps before it"):
        run(tmp_path, STAGE, batches=Poisoned(12), **more)


def test_the_group_of_parameters_that_is_not_finite_is_named(tmp_path):
    norms = {"a": 9.0, "b": np.inf, "c": 1.0}
    metrics = {f"{PART_NORM}{part}": norm for part, norm in norms.items()}
    metrics |= {"loss": 2.0, APPLIED: 0.0}
    guard = Guard("skip", 1, Events(tmp_path))
    guard.add(4, {k: (jnp.float32(v), jnp.float32(1)) for k, v in metrics.items()}, {1: "x"})
    assert not guard.must_roll_back(leave=0)
    (event,) = events(tmp_path)
    assert event["message"] == "loss 2.0, gradient of b inf: step not applied"


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match=r"loop\.non_finite: found 'wait'"):
        LoopConfig(non_finite="wait")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=LEAST, max_size=200))
def test_the_limit_of_a_spike_is_of_medians(recent):
    middle = statistics.median(recent)
    spread = 1.4826 * statistics.median(abs(x - middle) for x in recent)
    expected = middle + SPIKE * max(spread, 1e-3 * middle)
    assert spike_limit(np.array(recent)) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 31), st.floats(10, 1e9))
def test_a_quarter_of_wild_losses_hides_no_spike_and_raises_no_alarm(seed, wild, size):
    """The limit stays within a few deviations, whatever a quarter of the window says."""
    rng = np.random.default_rng(seed)
    recent = rng.normal(3.0, 0.1, 128)
    recent[:wild] = size
    assert 3.3 < spike_limit(recent) < 6.0


def test_spikes_are_told_once_each_and_not_noise(tmp_path):
    rng = np.random.default_rng(0)
    losses = 2 + np.exp(-np.arange(3000) / 500) + rng.normal(0, 0.05, 3000)
    losses[[500, 501, 2000]] += 3
    guard = Guard("stop", 0, Events(tmp_path))
    for step, loss in enumerate(losses):
        values = {"loss": loss, APPLIED: 1.0, f"{PART_NORM}all": 1.0}
        metrics = {k: (jnp.float32(v), jnp.float32(1)) for k, v in values.items()}
        guard.add(step, metrics, {step: "doc"})
        assert not guard.must_roll_back(leave=1)
    assert [event["step"] for event in events(tmp_path)] == [500, 501, 2000]
    assert events(tmp_path)[0]["documents"] == {"500": "doc"}
