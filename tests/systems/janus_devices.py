"""Run by test_janus_devices.py in a process with 8 devices: the loss of Janus over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.systems.test_janus import (
    GEN,
    PARAMS,
    UND,
    Document,
    TextSpan,
    assert_close,
    batch_of,
    objective,
)
from unijax.core.mesh import DATA, SEQUENCE, TENSOR

CLASSES = {"lm_head": P(None, TENSOR), "vision_head": P(None, TENSOR)}


def main():
    documents = [
        Document("a", (UND[0], TextSpan(range(7, 15), (1.0, 0.5) * 4))),
        Document("b", (TextSpan(range(20, 26), (0.0,) * 6), GEN[1])),
        Document("c", (UND[1], GEN[2], TextSpan((30, 31), (1.0, 1.0)))),
    ]
    batch = batch_of([documents[:2], documents[2:]])
    program = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (want, want_metrics), want_grads = program(PARAMS, batch)

    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), (DATA, TENSOR, SEQUENCE))

    def place(path, x):
        split = [spec for name, spec in CLASSES.items() if any(k.key == name for k in path)]
        spec = split[0] if split and x.ndim == 2 else P(TENSOR) if split else P()
        return jax.device_put(x, NamedSharding(mesh, spec))

    params = jax.tree_util.tree_map_with_path(place, PARAMS)
    places = jax.tree.map(lambda x: P(DATA, SEQUENCE) if x.ndim == 2 else P(DATA), batch)
    places = places.replace(und=jax.tree.map(lambda _: P(DATA), batch.und))
    places = places.replace(gen=jax.tree.map(lambda _: P(DATA), batch.gen))
    rows = jax.tree.map(lambda x, p: jax.device_put(x, NamedSharding(mesh, p)), batch, places)
    with jax.set_mesh(mesh):
        (loss, metrics), grads = program(params, rows)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), metrics, want_metrics)
    assert_close(jax.device_get(grads), jax.device_get(want_grads))
    kernel = grads["language_model"]["lm_head"]["kernel"]
    assert kernel.sharding.spec == P(None, TENSOR), kernel.sharding
    assert jnp.any(kernel)
    print("equal")


if __name__ == "__main__":
    main()
