"""Parameters of every named decoder, as golden tables."""

import jax
import jax.numpy as jnp
import pytest

from tests.goldens import check_golden
from tests.tables import parameter_table
from unijax.models import llama


@pytest.mark.parametrize("size", llama.SIZES)
def test_golden_table_of_the_decoder(size):
    model = llama.Llama(llama.SIZES[size])
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    init = lambda key, ids: model.init(key, ids, method="init_all")["params"]  # noqa: E731
    boxed = jax.eval_shape(init, jax.random.key(0), ids)
    check_golden(f"parameters/llama/{size}.txt", parameter_table(boxed, {}))
