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

B, T, D, HIDDEN, V = 2, 12, 8, 12, 31
N = B * T


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


def dense_loss(head, params, hidden, target, weight, z_weight=0.0):
    """`(sum, nll, correct)`, zero where there is no weight."""
    logits = head(params, hidden).astype(jnp.float32)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    correct = jnp.argmax(logits, axis=-1) == target
    has = weight != 0
    nll = jnp.where(has, nll, 0.0)
    total = jnp.sum(weight * nll) + jnp.sum(weight * z_weight * log_z**2)
    return total, nll, jnp.where(has & correct, 1.0, 0.0)


@functools.cache
def compiled(head, chunk, frozen=False, z_weight=0.0):
    """Two jitted functions: of the outputs, and of these with the gradients of 3 x their sum."""

    def loss_of(params, hidden, target, weight):
        loss = head_loss(
            head, params, hidden, target, weight, chunk=chunk, frozen=frozen, z_weight=z_weight
        )
        return 3 * loss.sum, (loss.sum, loss.nll, loss.correct)

    return jax.jit(lambda *a: loss_of(*a)[1]), jax.jit(jax.grad(loss_of, (0, 1), has_aux=True))


@functools.cache
def compiled_dense(head, z_weight=0.0):
    """The second of them, of `dense_loss`."""

    def loss_of(params, hidden, target, weight):
        out = dense_loss(head, params, hidden, target, weight, z_weight)
        return 3 * out[0], out

    return jax.jit(jax.grad(loss_of, (0, 1), has_aux=True))


def assert_close(found, want, tolerance=1e-5):
    found, want = np.asarray(found, np.float32), np.asarray(want, np.float32)
    scale = max(np.abs(want).max(initial=0), 1e-3)
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * scale)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(
        [
            ("linear", 1, False, 0.0),
            ("linear", 5, False, 0.1),
            ("linear", 64, True, 0.0),
            ("mlp", 5, True, 0.1),
            ("mlp", 5, False, 0.0),
            ("mlp", 64, False, 0.1),
        ]
    ),
    st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.25]), min_size=N, max_size=N),
    st.integers(0, 99),
)
def test_equals_log_softmax(case, weights, seed):
    name, chunk, frozen, z_weight = case
    head, params_of = HEADS[name]
    keys = jax.random.split(jax.random.key(seed), 3)
    params, hidden = params_of(keys[0]), jax.random.normal(keys[1], (B, T, D))
    # Half of the targets are the largest logit, so that some positions count as correct.
    target = jax.random.randint(keys[2], (B, T), 0, V)
    target = jnp.where(jnp.arange(T) % 2, target, jnp.argmax(head(params, hidden), axis=-1))
    args = params, hidden, target, jnp.asarray(weights, jnp.float32).reshape(B, T)
    evaluate, differentiate = compiled(head, chunk, frozen, z_weight)

    (dparams, dhidden), found = differentiate(*args)
    (want_params, want_hidden), want = compiled_dense(head, z_weight)(*args)
    jax.tree.map(assert_close, found, want)
    jax.tree.map(assert_close, evaluate(*args), want)
    assert_close(dhidden, want_hidden)
    if frozen:
        want_params = jax.tree.map(jnp.zeros_like, want_params)
    jax.tree.map(assert_close, dparams, want_params)


def test_of_equal_logits_the_lowest_class_is_the_largest():
    args = {"kernel": jnp.zeros((D, V))}, jnp.ones((1, 3, D)), jnp.array([[0, 1, V - 1]])
    loss = head_loss(linear, *args, jnp.ones((1, 3)), chunk=2)
    assert loss.correct.tolist() == [[1, 0, 0]]


def test_values_without_weight_count_for_nothing():
    """Not even a NaN, or a target that no class has, in a chunk that is not filled by others."""
    params = linear_params(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (B, T, D))
    target = jnp.arange(N).reshape(B, T)
    weight = (target % 3 == 0).astype(jnp.float32)
    bad_hidden = jnp.where(weight[..., None] > 0, hidden, jnp.nan)
    bad_target = jnp.where(weight > 0, target, 10**6)
    assert weight.sum() % 5
    _, differentiate = compiled(linear, 5)
    want = differentiate(params, hidden, target, weight)
    jax.tree.map(assert_close, differentiate(params, bad_hidden, target, weight), want)
    jax.tree.map(assert_close, differentiate(params, hidden, bad_target, weight), want)


def test_bfloat16_hidden_states_have_a_float32_loss():
    params = linear_params(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (B, T, D), jnp.bfloat16)
    args = params, hidden, jnp.arange(N).reshape(B, T), jnp.ones((B, T))
    _, differentiate = compiled(linear, 8)
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
        jax.ShapeDtypeStruct((1, n, D), jnp.float32),
        jax.ShapeDtypeStruct((1, n), jnp.int32),
        jax.ShapeDtypeStruct((1, n), jnp.float32),
    )
    _, differentiate = compiled(linear, chunk)
    sizes = lambda f: [a.size for a in all_avals(f.trace(*shapes).jaxpr)]  # noqa: E731
    assert max(sizes(compiled_dense(linear))) == n * v
    assert max(sizes(differentiate)) == chunk * v
    memory = differentiate.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * n * v / 4


SHAPES = (
    {"kernel": jax.ShapeDtypeStruct((D, V), jnp.float32)},
    jax.ShapeDtypeStruct((B, T, D), jnp.float32),
    jax.ShapeDtypeStruct((B, T), jnp.int32),
    jax.ShapeDtypeStruct((B, T), jnp.float32),
)


@pytest.mark.parametrize(("mode", "products"), [("no gradient", 1), ("frozen", 2), ("trained", 3)])
def test_products_worked_are_those_needed(mode, products):
    """Logits; for a gradient that of hidden; and that of the kernel only where it trains."""
    evaluate, differentiate = compiled(linear, 8, mode == "frozen")
    program = (evaluate if mode == "no gradient" else differentiate).trace(*SHAPES).jaxpr
    names = [e.primitive.name for e in all_equations(program)]
    assert names.count("dot_general") == products


@pytest.mark.parametrize("chunk", [5, N, 64])
def test_the_compiler_takes_no_product_out_of_the_loop(chunk):
    """It would be worked without a position too: of one chunk it takes those of the logits."""
    program = compiled(linear, chunk)[1].lower(*SHAPES).compile().as_text()
    outside = program[program.index("\nENTRY") :]
    assert program.count(" dot(") == 3
    assert " dot(" not in outside


def test_chunks_without_a_position_are_not_worked():
    """Counted where it runs: a head that reports each of its calls."""
    calls = []

    def counting(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return linear(params, x)

    params = linear_params(jax.random.key(0))
    hidden, target = jnp.ones((B, T, D)), jnp.zeros((B, T), jnp.int32)

    @jax.jit
    def loss(params, hidden, weight):
        return head_loss(counting, params, hidden, target, weight, chunk=4).sum

    for used, chunks in ((0, 0), (1, 1), (4, 1), (5, 2), (N, 6)):
        weight = (jnp.arange(N) >= N - used).astype(jnp.float32).reshape(B, T)
        for run in (loss, jax.jit(jax.grad(loss, (0, 1)))):
            calls.clear()
            jax.block_until_ready(run(params, hidden, weight))
            jax.effects_barrier()
            assert len(calls) == chunks
