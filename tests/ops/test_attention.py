"""Every implementation of attention through one suite; names, choices and mistakes."""

import functools
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.attention_suite import AttentionSuite, Form
from unijax.core.errors import UserError
from unijax.ops.attention import arguments, attention, full_intervals, select_implementation
from unijax.ops.attention.api import IMPLEMENTATIONS
from unijax.ops.attention.block_sizes import target
from unijax.ops.attention.reference import attention_reference


class TestReference(AttentionSuite):
    implementation = "reference"
    factor_bits = 20


class TestChunked(AttentionSuite):
    implementation = "chunked"
    options: ClassVar = dict(block_q=8, block_k=16)
    factor_bits = 20


class TestTpu(AttentionSuite):
    implementation = "tpu"
    options: ClassVar = dict(block_q=16, block_k=8, interpret=True)


class TestTriton(AttentionSuite):
    implementation = "triton"
    options: ClassVar = dict(block_q=16, block_k=16, interpret=True)


def slow_attention(q, k, v, start, end, scale):
    """One query and head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(*q.shape[:3]):
        keys = slice(int(start[b, t]), int(end[b, t]))
        scores = scale * k[b, keys, h // group] @ q[b, t, h]
        if scores.size:
            p = np.exp(scores - scores.max())
            out[b, t, h] = p / p.sum() @ v[b, keys, h // group]
    return out


@pytest.mark.parametrize("shape", [(2, 9, 9, 2, 2, 8), (1, 5, 17, 4, 2, 4), (2, 1, 12, 4, 1, 8)])
def test_the_reference_is_attention(shape):
    """Its gradients are those that jax derives."""
    b, tq, tk, *_ = shape
    q, k, v, _ = Form(*shape).inputs(0)
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, tk + 1, (b, tq)), axis=1).astype(np.int32)
    end = np.maximum(start, np.sort(rng.integers(0, tk + 1, (b, tq)), axis=1)).astype(np.int32)
    for scale in (shape[-1] ** -0.5, 0.3):
        out = attention_reference(q, k, v, jnp.asarray(start), jnp.asarray(end), scale=scale)
        want = slow_attention(q, k, v, start, end, scale)
        np.testing.assert_allclose(out, want, atol=1e-5 * np.abs(want).max())


def test_none_is_the_choice_and_can_be_asked():
    q, k, v, _ = Form(1, 70, 70, 2, 2, 8).inputs(0)
    ends = full_intervals(1, 70, 70)
    assert select_implementation(70, 70) == "chunked"
    assert select_implementation(8, 4096) == "reference"
    assert select_implementation(32, 32) == "reference"
    chosen = attention(q, k, v, *ends)
    np.testing.assert_array_equal(chosen, attention(q, k, v, *ends, implementation="chunked"))


def test_the_choice_is_said_once(caplog):
    q, k, v, _ = Form(1, 70, 71, 2, 2, 8).inputs(0)
    ends = full_intervals(1, 70, 71)
    with caplog.at_level("INFO", "unijax"):
        attention(q, k, v, *ends, implementation="reference")
        attention(q, k, v, *ends)
        attention(q, k, v, *ends)
    want = "attention of 70 queries, 71 keys, head dim 8, float32, on cpu: chunked"
    assert caplog.messages == [want]


@pytest.mark.parametrize(
    ("platform", "kind", "dtype", "head_dim", "want"),
    [
        ("tpu", "TPU v5 lite", jnp.bfloat16, 128, "tpu"),
        ("tpu", "TPU v6 lite", jnp.float32, 72, "tpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", jnp.bfloat16, 128, "mosaic_gpu"),
        ("gpu", "NVIDIA A100-SXM4-80GB", jnp.float16, 64, "triton"),
        ("gpu", "NVIDIA H100 80GB HBM3", jnp.float32, 128, "chunked"),
        ("gpu", "NVIDIA H100 80GB HBM3", jnp.bfloat16, 256, "chunked"),
        ("cpu", "cpu", jnp.bfloat16, 64, "chunked"),
    ],
)
def test_the_choice_by_device(monkeypatch, platform, kind, dtype, head_dim, want):
    monkeypatch.setattr("unijax.ops.attention.api.target", lambda: (platform, kind))
    assert select_implementation(4096, 4096, head_dim, dtype) == want
    assert select_implementation(1, 4096, head_dim, dtype) == "reference"


@pytest.mark.parametrize("name", ["tpu", "triton", "mosaic_gpu"])
def test_a_named_one_runs_or_raises(name):
    q = jnp.zeros((1, 2, 2, 64), jnp.bfloat16)
    with pytest.raises(UserError, match=rf"implementation='{name}': found a cpu \(cpu\)"):
        attention(q, q, q, *full_intervals(1, 2, 2), implementation=name)


def test_mistakes():
    q = jnp.zeros((1, 2, 3, 4))
    ends = full_intervals(1, 2, 2)
    with pytest.raises(UserError, match=f"one of .*{sorted(IMPLEMENTATIONS)[0]}"):
        attention(q, q, q, *ends, implementation="nope")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_k": 0}, "block_k: found 0; expected a whole number"),
        ({"block_q": -8}, "block_q: found -8"),
        ({"block_q": True}, "block_q: found True"),
        ({"block_q": 8.0}, "block_q: found 8.0"),
        ({"blockq": 8}, r"option blockq: found none of chunked's; expected one of .*'block_q'"),
    ],
)
def test_sizes_of_blocks_are_whole_numbers(options, message):
    """A block of no keys was a ZeroDivisionError."""
    q = jnp.zeros((1, 2, 3, 4))
    with pytest.raises(UserError, match=message):
        attention(q, q, q, *full_intervals(1, 2, 2), implementation="chunked", **options)


def test_a_mesh_names_the_device():
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))):
        assert select_implementation(70, 70) == "chunked"


def test_the_default_device_is_the_target(monkeypatch):
    """A model may be made on the CPU of a machine that has a GPU."""
    cpu, gpu = jax.devices()[0], SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")
    monkeypatch.setattr(jax, "devices", lambda of=None: [cpu if of == "cpu" else gpu])
    assert target() == ("gpu", "NVIDIA H100")
    for default in (cpu, "cpu"):
        with jax.default_device(default):
            assert target() == ("cpu", "cpu")


def test_a_cap_of_true_is_not_a_cap_of_one():
    assert not arguments._is_usable(True)
    assert arguments._is_usable(1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "size"),
    [("bfloat16", 72, 1e4), ("bfloat16", 128, 3e4), ("float32", 64, 1e3), ("float32", 128, 1e4)],
)
def test_large_queries_and_keys_give_chunked_what_the_reference_has(dtype, head_dim, size, tied):
    """Scores of 1e10, of which float32 knows no digit behind the point, were NaN and gave gradients
    of 1e38."""
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.standard_normal((1, 16, 1, head_dim)) * size, dtype)
    k = rng.standard_normal((1, 600, 1, head_dim)) * size
    if tied:
        k[:, 300:] = k[:, :1]
    k = jnp.asarray(k, dtype)
    v = jnp.asarray(rng.standard_normal(k.shape), dtype)

    def summed(name, *x):
        out = attention(*x, *full_intervals(1, 16, 600), implementation=name)
        return out.astype(jnp.float32).sum()

    found, want = (
        jax.value_and_grad(functools.partial(summed, name), (0, 1, 2))(q, k, v)
        for name in ("chunked", "reference")
    )
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5, atol=1e-4)
    # Where one key has all the weight they are 0, but for rounding: head_dim products summed in two
    # orders, times the scale and a key.
    for x in found[1][:2]:
        bound = head_dim * 2.0**-23 * head_dim**-0.5 * np.abs(k).max().astype(float)
        assert np.abs(np.asarray(x, np.float32)).max() <= bound
    weights = np.asarray(found[1][2], np.float32)  # sums of weights of 16 queries
    assert 0.9 <= weights.max() <= 16
    assert weights.min() >= 0


@pytest.mark.parametrize("dtype", ["uint32", "int8", "int16"])
def test_ends_beyond_the_keys_of_any_integers_are_taken_back_inside_of_a_program(dtype):
    """The largest uint32 came back as -1, and nothing was seen."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((1, n, 1, 8)), jnp.float32) for n in (4, 90, 90))
    start = np.zeros((1, 4), dtype)
    most = np.full((1, 4), np.iinfo(dtype).max, dtype)
    found = jax.jit(lambda *ends: attention(q, k, v, *ends))(start, most)
    want = attention(q, k, v, *full_intervals(1, 4, 90))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
