"""What every system must do, whatever it eats: a suite that `decoder_suite` and `image_suite` grow.

A subclass names a small system (`tests.systems.small`) and its recipe.
"""

import functools
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import devices
from tests.goldens import check_golden
from tests.long import LONG
from tests.systems.small import Batches, Small, assert_close
from tests.tables import parameter_table, sharding_table
from tests.walk import product_flops
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.system import Recipe, System, init_shapes
from unijax.parallel.sharding import MeshConfig
from unijax.systems import registry
from unijax.train.loop import LoopConfig, fit
from unijax.train.step import sum_over_parts

LONGEST = frozenset(
    {
        "test_over_eight_devices_equals_one",
        "test_rows_worked_in_parts_give_the_sums_and_gradients_of_all",
        "test_what_is_frozen_has_no_state_and_does_not_move",
        "test_resuming_gives_the_bits_of_never_stopping",
        "test_greedy_answers_are_those_of_teacher_forcing",
        "test_a_batch_of_text_alone_needs_no_images",
    }
)


class SystemSuite:
    """Subclasses say which system; tests that the sizes of one cannot pass are no others' loss.

    Attributes:
      long: tests of it that every change does not run, but `make test-long`; `LONGEST` of all but
        those that the others are variations of.
      edges: share of the FLOPs of convolutions that `costs` may be off, as they leave out what
        reaches over edges.
      of_what_is_worked_at_once: metrics that are of a part of a step, not sums over parts.
      may_gather: what arrays of several dims may be gathered over devices for, besides parameters,
        as parts of the names that XLA gives its operations.
      may_gather_positions: likewise where the positions of a row are split.
    """

    small: Small
    recipe: Recipe
    long: frozenset[str] = LONGEST
    edges = 0.0
    of_what_is_worked_at_once: tuple[str, ...] = ()
    may_gather: tuple[str, ...] = ("conv_general_dilated",)
    may_gather_positions: tuple[str, ...] = ("self_attn", "Projector")
    tables: ClassVar[tuple[str, ...]] = ("data", "fsdp", "fsdp_tensor", "fsdp_tensor_sequence")

    def sizes(self) -> dict[str, System]:
        """Systems of the published sizes."""
        return {name: self.recipe.system(config) for name, config in self.recipe.sizes.items()}

    def a_batch(self):
        return jax.tree.map(jnp.asarray, self.small.host_batches()[0])

    # Names

    def test_it_is_registered(self):
        assert registry.recipe(self.recipe.name) is self.recipe
        assert isinstance(self.small.system, self.recipe.system)
        assert isinstance(self.small.system.config, self.recipe.config)

    def test_every_parameter_has_axes_that_every_table_places(self):
        boxed = init_shapes(self.small.system)
        assert parameter_table(boxed, self.small.system.own_axes)
        assert sharding_table(boxed, self.small.system.own_axes)

    def test_golden_tables_of_every_published_size(self):
        for size, system in self.sizes().items():
            boxed = init_shapes(system)
            check_golden(f"parameters/{size}.txt", parameter_table(boxed, system.own_axes))
            check_golden(f"sharding/{size}.txt", sharding_table(boxed, system.own_axes))

    def test_costs_and_lookups_name_parameters(self):
        system, paths = self.small.system, list(tree.flatten(self.small.params))
        assert {c.group for c in system.costs} - {""}
        for group in {c.group for c in system.costs} - {""} | {*system.lookups, *system.unused}:
            assert any(tree.is_within(path, group) for path in paths), group
        assert system.encoders <= self.small.params.keys()

    # The loss

    def test_every_term_has_a_denominator_and_every_loss_a_metric(self):
        batch = self.a_batch()
        run = functools.partial(self.small.loss, frozen=frozenset())
        sums, metrics = jax.eval_shape(run, self.small.params, batch, jax.random.key(0))
        assert sums.keys() == self.small.system.weights(batch).keys()
        for name in self.small.system.losses:
            assert f"{name}/loss" in metrics
        counts = self.small.system.counts(batch)
        assert not counts.keys() & metrics.keys()

    def test_nothing_is_drawn_in_evaluation_that_training_draws_otherwise(self):
        """Without dropout the key of a step has no say: randomness belongs to the picture."""
        batch = self.a_batch()
        run = jax.jit(functools.partial(self.small.loss, frozen=frozenset()))
        found, _ = run(self.small.params, batch, None)
        for seed in range(2):
            want, _ = run(self.small.params, batch, jax.random.key(seed))
            for name, value in want.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)

    def test_rows_worked_in_parts_give_the_sums_and_gradients_of_all(self):
        """The parts have other documents, pictures and numbers of targets."""
        batch, system = self.a_batch(), self.small.system
        if not system.rows_alone:
            with pytest.raises(UserError, match="accumulate: found 2"):
                self.small.trainer(self.small.stage, MeshConfig(), jax.devices()[:1], parts=2)
            return
        want = self.small.value_and_gradients(batch)
        parts = functools.partial(sum_over_parts, self.small.value_and_gradients, parts=4)
        found = jax.jit(parts)(batch)
        np.testing.assert_allclose(found[0][0], want[0][0], rtol=1e-6)
        for name in want[0][1].keys() - {*self.of_what_is_worked_at_once}:
            pair = want[0][1][name]
            np.testing.assert_allclose(found[0][1][name], pair, rtol=1e-5, err_msg=name)
        assert_close(found[1], want[1])

    # Steps

    def test_what_is_frozen_has_no_state_and_does_not_move(self):
        """Every second parameter, so that frozen and trained ones lie side by side in a layer."""
        small, trainer = self.small, self.small.partly_frozen
        state = small.begin(trainer)
        frozen = {path for path, rule in trainer.rules.items() if rule.frozen}
        trained = trainer.rules.keys() - frozen
        assert frozen
        assert trained
        leaves = jax.tree_util.tree_leaves_with_path((state.opt_state, state.ema, state.params))
        held = ["/".join(str(getattr(k, "key", k)) for k in path) for path, _ in leaves]
        whose = {max((p for p in trainer.rules if h.endswith(f"/{p}")), key=len) for h in held
                 if any(h.endswith(f"/{p}") for p in trainer.rules)}  # fmt: skip
        assert not whose & frozen
        assert whose == trained
        before = {p: np.array(x) for p, x in tree.flatten(small.params).items()}
        batch = trainer.put(small.host_batches()[0])
        state, _ = trainer.train_step(state, batch)
        for path, x in tree.flatten(state.frozen).items():
            np.testing.assert_array_equal(np.asarray(x), before[path], path)
        after = {p: np.asarray(x) for p, x in tree.flatten(state.params).items()}
        assert after.keys() == trained
        still = {path for path in trained if np.array_equal(after[path], before[path])}
        assert all(any(tree.is_within(p, u) for u in small.system.unused) for p in still), still

    def test_resuming_gives_the_bits_of_never_stopping(self, tmp_path):
        trainer, host = self.small.partly_frozen, self.small.host_batches()

        def run(folder, stop_at=None):
            return fit(
                self.small.begin(trainer), trainer, Batches(host), 3, LoopConfig(writers=()),
                tmp_path / folder, {"stage": "stage", "config": {}}, {}, stop_at,
            )  # fmt: skip

        whole = run("whole")
        run("cut", stop_at=1)
        resumed = run("cut")
        for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    def test_over_eight_devices_equals_one(self):
        """In a process of its own (`tests.systems.suite_devices`), split in every way at once.

        `make test-long` takes every table.
        """
        module, name = sys.modules[type(self).__module__].__name__, type(self).__name__
        cases = () if LONG else ("fsdp_tensor_sequence",)
        assert devices.run("tests.systems.suite_devices", module, name, *cases) == "equal"

    # FLOPs

    def worked(self, batch) -> dict[str, float]:
        """What a program works of each unit of `costs`, empty rows and slots included."""
        raise NotImplementedError

    def forward_flops(self, batch) -> int:
        """Of the program of a loss."""
        run = functools.partial(self.small.loss, frozen=frozenset())
        return product_flops(jax.make_jaxpr(run)(self.small.params, batch, None).jaxpr)

    def costs_of(self, batch) -> float:
        """The same, as the recipe says it; a head of several kinds of answers works once."""
        worked, found = self.worked(batch), {}
        for i, c in enumerate(self.small.system.costs):
            of = c.group if c.kind == "head" and c.group else i
            found[of] = max(found.get(of, 0.0), worked.get(c.unit, 0.0) * c.forward)
        return sum(found.values())
