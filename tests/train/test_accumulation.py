"""A step in parts is the step at once: sums, gradients, metrics, denominators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.toy import Toy, ToyBatches, toy_stage
from unijax.core.errors import UserError
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.contrastive import Contrastive
from unijax.train import setup
from unijax.train.step import in_parts, sum_over_parts


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_every_row_is_in_one_part_and_every_device_has_some_of_each(parts, devices, each):
    rows = np.arange(parts * devices * each)
    split = np.asarray(in_parts({"x": jnp.asarray(rows)}, parts)["x"])
    assert sorted(split.reshape(-1)) == rows.tolist()
    owner = rows // (parts * each)  # as rows lie on devices
    for part in split:
        assert np.bincount(owner[part], minlength=devices).tolist() == [each] * devices


def one_step(parts: int, weight: np.ndarray):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), toy_stage(), mesh, "data", jnp.float32, seed=3, parts=parts)
    batch = next(ToyBatches()) | {"weight": weight}
    state, metrics = trainer.train_step(trainer.begin(trainer.init(7)), trainer.put(batch))
    return state, jax.tree.map(float, metrics)


@pytest.mark.parametrize("parts", [2, 8, 16])
def test_parts_of_unequal_weight_give_the_step_of_the_whole(parts):
    """Denominators are those of the step: a mean of the parts' means would differ."""
    weight = np.r_[np.zeros(5), np.linspace(0.1, 4, 11)].astype(np.float32)
    whole, metrics = one_step(1, weight)
    split, found = one_step(parts, weight)
    assert found.keys() == metrics.keys()
    for name, (total, count) in metrics.items():
        assert found[name] == pytest.approx((total, count), rel=1e-5), name
    # Adam's first step is the gradient's sign: its moments tell more than the parameters.
    moments = whole.opt_state["main"][1], split.opt_state["main"][1]
    for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)


def test_the_sum_over_parts_is_worked_one_after_another():
    """One part's arrays at a time: the program holds no array of all rows but its input."""
    x = jnp.ones((64, 128))
    work = lambda part: jnp.sum(jnp.sin(part @ part.T))  # noqa: E731
    jaxpr = str(jax.make_jaxpr(lambda x: sum_over_parts(work, x, 8))(x))
    assert "f32[8,8]" in jaxpr
    assert "f32[64,64]" not in jaxpr


def test_a_loss_of_pairs_of_rows_is_not_worked_in_parts():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert not Contrastive.rows_alone
    system = type("Pairs", (Toy,), {"rows_alone": False})()
    with pytest.raises(UserError, match="2 for the system Pairs; expected 1"):
        setup.build(system, toy_stage(), mesh, "data", jnp.float32, seed=3, parts=2)
