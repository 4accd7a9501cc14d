"""Learning rates: against PyTorch's schedulers and the published ones, and knots that are wrong."""

import math
import warnings

import numpy as np
import pytest
import torch

from unijax.core.errors import UserError
from unijax.train.schedule import schedule
from unijax.train.stage import Knot, OptimizerConfig

PEAK = 3e-4


def rates(steps: int, count: int | None = None, **config) -> np.ndarray:
    fn = schedule(OptimizerConfig(PEAK, **config), steps)
    return np.array([float(fn(step)) for step in range(count or steps)])


def of_torch(make, count: int) -> np.ndarray:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler, found = make(optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of the optimizer is taken
        for _ in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return np.array(found)


lr = torch.optim.lr_scheduler


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_cosine_to_a_share_is_that_of_pytorch(share):
    want = of_torch(lambda o: lr.CosineAnnealingLR(o, 40, eta_min=share * PEAK), 41)
    found = rates(40, 41, schedule="cosine", final_share=share)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6 * PEAK)
    by_knots = rates(40, 41, schedule="knots", knots=(Knot(0, 1.0), Knot(40, share, "cosine")))
    np.testing.assert_allclose(by_knots, want, rtol=1e-5, atol=1e-6 * PEAK)


def test_constant_then_linear_to_a_share():
    found = rates(20, 21, schedule="constant_decay", decay_fraction=0.5, final_share=0.1)
    want = of_torch(
        lambda o: lr.SequentialLR(
            o, [lr.ConstantLR(o, 1.0), lr.LinearLR(o, 1.0, 0.1, total_iters=10)], [10]
        ),
        21,
    )
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_exponential_is_that_of_pytorch():
    want = of_torch(lambda o: lr.ExponentialLR(o, 0.9), 31)
    knots = (Knot(0, 1.0), Knot(30, 0.9**30, "exponential"))
    np.testing.assert_allclose(rates(30, 31, schedule="knots", knots=knots), want, rtol=1e-5)


def test_constant_pieces_are_those_of_pytorch():
    """As Emu's pixel decoder has them, after a warm-up."""
    want = of_torch(
        lambda o: lr.SequentialLR(
            o,
            [lr.LinearLR(o, 1e-9, 1.0, total_iters=5), lr.MultiStepLR(o, [5, 9], gamma=0.5)],
            [5],
        ),
        20,
    )
    knots = (Knot(0, 0.0), Knot(5, 1.0), Knot(10, 0.5, "constant"), Knot(14, 0.25, "constant"))
    found = rates(20, schedule="knots", knots=knots)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6 * PEAK)


def test_inverse_square_root():
    knots = (Knot(0, 0.0), Knot(4, 1.0), Knot(100, (4 / 100) ** 0.5, "inverse_sqrt"))
    found = rates(100, 101, schedule="knots", knots=knots)
    want = [PEAK * (s / 4 if s < 4 else (4 / s) ** 0.5) for s in range(101)]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_logarithmic_warm_up():
    """Of MetaMorph's pixel decoder, which ends before its linear decay does."""
    knots = (Knot(0, 0.0), Knot(40, 1.0, "logarithmic"), Knot(160, 0.0))
    found = rates(120, schedule="knots", knots=knots)
    rise = [math.log(s + 1) / math.log(41) for s in range(40)]
    fall = [1 - (s - 40) / 120 for s in range(40, 120)]
    np.testing.assert_allclose(found, PEAK * np.array(rise + fall), rtol=1e-5)


def test_steps_from_the_end_and_the_share_that_stays():
    knots = (Knot(0, 0.5), Knot(-11, 0.5), Knot(-1, 0.1))
    found = rates(30, 40, schedule="knots", knots=knots)
    np.testing.assert_allclose(found[:20], 0.5 * PEAK, rtol=1e-6)
    np.testing.assert_allclose(found[24], 0.3 * PEAK, rtol=1e-5)
    np.testing.assert_allclose(found[29:], 0.1 * PEAK, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"schedule": "linear"}, "schedule: found 'linear'; expected one of"),
        ({"final_share": 0.1}, "final_share: found 0.1; expected 0 with the schedule 'constant'"),
        ({"schedule": "cosine", "final_share": 2.0}, "final_share: found 2.0; expected a share"),
        ({"schedule": "knots"}, r"knots: found \(\); expected the first at step 0"),
        ({"knots": (Knot(0, 1.0),)}, "schedule: found 'constant'; expected 'knots'"),
        (
            {"schedule": "knots", "knots": (Knot(0, 1.0),), "warmup_steps": 3},
            "warmup_steps: found 3; expected 0",
        ),
        (
            {"schedule": "knots", "knots": (Knot(0, 1.0), Knot(9, 0.0, "exponential"))},
            "expected shares above 0 at both ends of a curve 'exponential'",
        ),
    ],
)
def test_what_is_no_schedule_is_told(config, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(PEAK, **config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knot(0, 1.0, "cubic"), "curve: found 'cubic'; expected one of"),
        (lambda: Knot(0, -1.0), "share: found -1.0; expected a finite number, 0 or"),
    ],
)
def test_what_is_no_knot_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("steps", [50, 40])
def test_knots_that_pass_each_other_are_told(steps):
    """Those from the end move with the length of the stage."""
    knots = (Knot(0, 0.0), Knot(40, 1.0), Knot(-10, 0.0, "cosine"))
    with pytest.raises(UserError, match=rf"knots at the steps \[0, 40, {steps - 10}\] in a stage"):
        rates(steps, schedule="knots", knots=knots)
