"""Head loss against log_softmax over all positions at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.walk import all_avals, all_equations
from unijax.ops.cross_entropy import head_loss

N, D, HIDDEN, V = 23, 8, 12, 31


def linear(params, x):
    return x @ params["kernel"].astype(x.dtype)


def mlp(params, x):
    return jax.nn.gelu(x @ params["fc"] + params["bias"]) @ params["kernel"]


def linear_params(key, dtype=jnp.float32):
    return {"kernel": jax.random.normal(key, (D, V), dtype)}


def mlp_params(key):
    keys = jax.random.split(key, 3)
    shapes = {"fc": (D, HIDDEN), "bias": (HIDDEN,), "kernel": (HIDDEN, V)}
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items())}


HEADS = {"linear": (linear, linear_params), "mlp": (mlp, mlp_params)}


def dense_loss(head, params, hidden, target, weight):
    """`(sum, nll, correct)`, zero where there is no weight."""
    logits = head(params, hidden).astype(jnp.float32)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]
    correct = jnp.argmax(logits, axis=1) == target
    has = weight != 0
    nll = jnp.where(has, nll, 0.0)
    return jnp.sum(nll * weight), nll, jnp.where(has & correct, 1.0, 0.0)


@functools.cache
def compiled(head, chunk, frozen):
    """Two jitted functions: of the outputs, and of these with the gradients of 3 x their sum."""

    def loss_of(params, hidden, target, weight):
        loss = head_loss(head, params, hidden, target, weight, chunk=chunk, frozen=frozen)
        return 3 * loss.sum, (loss.sum, loss.nll, loss.correct)

    return jax.jit(lambda *a: loss_of(*a)[1]), jax.jit(jax.grad(loss_of, (0, 1), has_aux=True))


@functools.cache
def compiled_dense(head):
    """The second of them, of `dense_loss`."""

    def loss_of(params, hidden, target, weight):
        out = dense_loss(head, params, hidden, target, weight)
        return 3 * out[0], out

    return jax.jit(jax.grad(loss_of, (0, 1), has_aux=True))


def assert_close(found, want, tolerance=1e-5):
    found, want = np.asarray(found, np.float32), np.asarray(want, np.float32)
    scale = max(np.abs(want).max(initial=0), 1e-3)
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * scale)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["linear", "mlp"]),
    st.sampled_from([1, 4, 64]),
    st.booleans(),
    st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.25]), min_size=N, max_size=N),
    st.integers(0, 99),
)
def test_equals_log_softmax(head, chunk, frozen, weights, seed):
    head, params_of = HEADS[head]
    keys = jax.random.split(jax.random.key(seed), 3)
    params, hidden = params_of(keys[0]), jax.random.normal(keys[1], (N, D))
    # Half of the targets are the largest logit, so that some positions count as correct.
    target = jax.random.randint(keys[2], (N,), 0, V)
    target = jnp.where(jnp.arange(N) % 2, target, jnp.argmax(head(params, hidden), axis=1))
    args = params, hidden, target, jnp.asarray(weights, jnp.float32)
    evaluate, differentiate = compiled(head, chunk, frozen)

    (dparams, dhidden), found = differentiate(*args)
    (want_params, want_hidden), want = compiled_dense(head)(*args)
    jax.tree.map(assert_close, found, want)
    jax.tree.map(assert_close, evaluate(*args), want)
    assert_close(dhidden, want_hidden)
    if frozen:
        want_params = jax.tree.map(jnp.zeros_like, want_params)
    jax.tree.map(assert_close, dparams, want_params)


def test_values_without_weight_count_for_nothing():
    """Not even a NaN, or a target that no class has."""
    params = linear_params(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (N, D))
    weight = (jnp.arange(N) % 3 == 0).astype(jnp.float32)
    target = jnp.arange(N)
    bad_hidden = jnp.where(weight[:, None] > 0, hidden, jnp.nan)
    bad_target = jnp.where(weight > 0, target, 10**6)
    # A chunk that is full and one that holds filling.
    _, differentiate = compiled(linear, 4, False)
    want = differentiate(params, hidden, target, weight)
    jax.tree.map(assert_close, differentiate(params, bad_hidden, target, weight), want)
    jax.tree.map(assert_close, differentiate(params, hidden, bad_target, weight), want)


def test_bfloat16_hidden_states_have_a_float32_loss():
    params = linear_params(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (N, D), jnp.bfloat16)
    args = params, hidden, jnp.arange(N), jnp.ones(N)
    _, differentiate = compiled(linear, 8, False)
    (dparams, dhidden), (total, nll, _) = differentiate(*args)
    assert (dhidden.dtype, total.dtype, nll.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    assert dparams["kernel"].dtype == jnp.float32
    exact = compiled_dense(linear)(params, hidden.astype(jnp.float32), *args[2:])
    (want_params, want_hidden), (want, *_) = exact
    assert_close(total, want, 2**-7)
    assert_close(dhidden, want_hidden, 2**-6)
    assert_close(dparams["kernel"], want_params["kernel"], 2**-6)


def test_no_array_of_all_logits():
    n, chunk, v = 4096, 64, 1000
    shapes = (
        {"kernel": jax.ShapeDtypeStruct((D, v), jnp.float32)},
        jax.ShapeDtypeStruct((n, D), jnp.float32),
        jax.ShapeDtypeStruct((n,), jnp.int32),
        jax.ShapeDtypeStruct((n,), jnp.float32),
    )
    _, differentiate = compiled(linear, chunk, False)
    sizes = lambda f: [a.size for a in all_avals(f.trace(*shapes).jaxpr)]  # noqa: E731
    assert max(sizes(compiled_dense(linear))) == n * v
    assert max(sizes(differentiate)) == chunk * v
    memory = differentiate.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * n * v / 4


@pytest.mark.parametrize(("mode", "products"), [("no gradient", 1), ("frozen", 2), ("trained", 3)])
def test_products_worked_are_those_needed(mode, products):
    """Logits; for a gradient that of hidden; and that of the kernel only where it trains."""
    shapes = (
        {"kernel": jax.ShapeDtypeStruct((D, V), jnp.float32)},
        jax.ShapeDtypeStruct((N, D), jnp.float32),
        jax.ShapeDtypeStruct((N,), jnp.int32),
        jax.ShapeDtypeStruct((N,), jnp.float32),
    )
    evaluate, differentiate = compiled(linear, 8, mode == "frozen")
    program = (evaluate if mode == "no gradient" else differentiate).trace(*shapes).jaxpr
    names = [e.primitive.name for e in all_equations(program)]
    assert names.count("dot_general") == products


def test_chunks_without_a_position_are_not_worked():
    """Counted where it runs: a head that reports each of its calls."""
    calls = []

    def counting(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return linear(params, x)

    params = linear_params(jax.random.key(0))
    hidden, target = jnp.ones((N, D)), jnp.zeros(N, jnp.int32)

    @jax.jit
    def loss(params, hidden, weight):
        return head_loss(counting, params, hidden, target, weight, chunk=4).sum

    for used, chunks in ((0, 0), (1, 1), (4, 1), (5, 2), (N, 6)):
        weight = jnp.zeros(N).at[-used:].set(1.0) if used else jnp.zeros(N)
        for run in (loss, jax.jit(jax.grad(loss, (0, 1)))):
            calls.clear()
            jax.block_until_ready(run(params, hidden, weight))
            jax.effects_barrier()
            assert len(calls) == chunks
