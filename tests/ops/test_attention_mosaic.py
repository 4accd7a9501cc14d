"""The kernels for Hopper through the suite of attention, threads and barriers simulated."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.attention_suite import NASTY, AttentionSuite
from tests.ops.mosaic_interpreter import mosaic_interpreter
from unijax.ops.attention import pallas_mosaic_gpu


class TestMosaicGpu(AttentionSuite):
    """Slow to simulate: two tiles of queries, and fewer rows of each kind."""

    implementation = "mosaic_gpu"
    options: ClassVar = dict(block=64, block_backward=64)
    tokens = 136
    head_dim = 64
    dtype = jnp.bfloat16
    tolerance = 2**-7  # probabilities, their gradients and the result each keep 8 bits
    examples = 3
    block = 128

    @pytest.fixture(autouse=True, scope="class")
    def simulated(self):
        with mosaic_interpreter() as interpret:
            type(self).attend = staticmethod(type(self).attend_with(interpret=interpret))
            yield

    @pytest.mark.parametrize(
        "name",
        ["Janus 1B", "grouped heads", "image on a cached prefix", "SigLIP-So400m at 384"],
    )
    def test_rows_of_the_models(self, name):
        super().test_rows_of_the_models(name)

    @pytest.mark.parametrize("name", NASTY)
    def test_nasty_rows(self, name):
        super().test_nasty_rows(name, whole=(3,))

    def test_heads_in_sections(self, monkeypatch):
        """As where the keys and values of all heads do not fit in the cache."""
        monkeypatch.setattr(pallas_mosaic_gpu, "CACHE", 1)
        end = np.arange(self.tokens, dtype=np.int32)[None] + 1
        self.check(self.form(heads=4, kv_heads=2), 0 * end, end)

    def test_large_scores(self):
        pytest.skip("in 16 bits the gradients of such scores are rounding alone")

    def test_under_scan_with_recomputation(self):
        pytest.skip("jax cannot recompute what is simulated by callbacks; compile-check does")
