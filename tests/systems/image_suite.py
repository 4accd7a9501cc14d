"""What every system of single pictures must do: a suite that each inherits (`system_suite`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.systems.small import SmallPictures
from tests.systems.system_suite import SystemSuite
from unijax.core import cost
from unijax.core.batch import ImageBatch


class ImageSuite(SystemSuite):
    """Subclasses name a small system of pictures."""

    small: SmallPictures

    @functools.cached_property
    def run(self):
        """Compiled: batch -> sums, metrics."""
        program = jax.jit(functools.partial(self.small.loss, frozen=frozenset()))
        return lambda batch: program(self.small.params, batch, jax.random.key(0))

    def check_same(self, found: ImageBatch, want: ImageBatch) -> None:
        """Every sum, metric and denominator."""
        (sums, metrics), (want_sums, want_metrics) = self.run(found), self.run(want)
        pairs = {name: (sums[name], want_sums[name]) for name in want_sums}
        for name in want_metrics:
            pairs |= {(name, i): (metrics[name][i], want_metrics[name][i]) for i in range(2)}
        weights, want_weights = map(self.small.system.weights, (found, want))
        pairs |= {("weight", name): (weights[name], want_weights[name]) for name in want_weights}
        for name, (x, y) in pairs.items():
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6, err_msg=str(name))

    def test_filling_counts_nothing(self):
        """Whatever pictures and captions it holds, and wherever it stands."""
        weight = np.array([1, 0, 1, 1, 0], np.float32)
        batch, other = self.small.batch(weight), self.small.batch(weight, seed=1)

        def mixed(x, y):
            is_filling = (weight == 0).reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(is_filling, y, x)

        self.check_same(jax.tree.map(mixed, batch, other), batch)
        kept = jax.tree.map(lambda x: x[weight == 1], batch)
        self.check_same(batch, kept)

    def test_pictures_do_not_depend_on_their_order(self):
        batch = self.small.batch([1, 1, 0, 1, 1])
        self.check_same(jax.tree.map(lambda x: x[::-1], batch), batch)

    def worked(self, batch: ImageBatch) -> dict[str, float]:
        return {k: float(x) for k, x in self.small.system.amounts(batch).items()}

    def test_flops_are_those_of_the_program(self):
        batch = self.small.batch([1, 1, 1])
        found = self.forward_flops(batch)
        assert found > 0
        assert self.costs_of(batch) == pytest.approx(found, rel=self.edges)

    def test_amounts_are_of_what_counts(self):
        one, two = (self.small.system.amounts(self.small.batch(w)) for w in ([1, 0], [1, 1]))
        assert float(one[cost.IMAGES]) == 1
        assert one.keys() == two.keys()
        for unit in one:  # pairs of pictures grow as the square
            assert float(two[unit]) in (2 * float(one[unit]), 4 * float(one[unit]))
        counts = self.small.system.counts(self.small.batch([1, 1, 0]))
        assert float(counts["images"][0]) == 2
