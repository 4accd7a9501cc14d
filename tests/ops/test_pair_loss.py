"""Losses of pairs in tiles against the dense forms, open_clip's among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import open_clip
from tests.walk import all_avals, product_flops
from unijax.ops.pair_loss import sigmoid_loss, softmax_loss

B, D = 13, 8


def units(rng: np.random.Generator, rows: int = B) -> np.ndarray:
    x = rng.standard_normal((rows, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def inputs(seed: int = 0, rows: int = B) -> tuple:
    """Pictures near their texts, so that some are found and some are not; labels that repeat."""
    rng = np.random.default_rng(seed)
    images = units(rng, rows)
    texts = images + 1.5 * units(rng, rows)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    weight = rng.choice([0.0, 1.0, 1.0, 0.5], rows).astype(np.float32)
    label = rng.integers(0, rows // 2, rows).astype(np.int32)
    return images, texts, np.float32(14.0), np.float32(-5.0), weight, label


def dense_softmax(images, texts, scale, weight):
    logits = scale * images @ texts.T
    counts = weight > 0
    to_text = jax.nn.logsumexp(jnp.where(counts, logits, -jnp.inf), axis=1)
    to_image = jax.nn.logsumexp(jnp.where(counts[:, None], logits, -jnp.inf), axis=0)
    own = jnp.diag(logits)
    loss = jnp.sum(weight * jnp.where(counts, (to_text + to_image) / 2 - own, 0))
    best = jnp.argmax(jnp.where(counts, logits, -jnp.inf), axis=1)
    return loss, counts & (best == jnp.arange(len(weight)))


def dense_sigmoid(images, texts, scale, bias, weight, label):
    logits = scale * images @ texts.T + bias
    same = label[:, None] == label
    loss = -jax.nn.log_sigmoid(jnp.where(same, logits, -logits))
    counts = weight > 0
    best = jnp.argmax(jnp.where(counts, logits, -jnp.inf), axis=1)
    return jnp.sum(weight[:, None] * weight * loss), counts & (label[best] == label)


def softmax(chunk, images, texts, scale, bias, weight, label):
    del bias, label
    found = softmax_loss(images, texts, scale, weight, chunk=chunk)
    return found.sum, found.correct


def sigmoid(chunk, *inputs):
    found = sigmoid_loss(*inputs, chunk=chunk)
    return found.sum, found.correct


LOSSES = {
    "softmax": (softmax, lambda x, y, s, b, w, label: dense_softmax(x, y, s, w)),
    "sigmoid": (sigmoid, dense_sigmoid),
}


@functools.partial(jax.jit, static_argnums=0)
def gradients(loss, *inputs):
    """Of twice the sum, with respect to features, scale and bias; and what is found."""

    def of(*some):
        out = loss(*some, *inputs[4:])
        return 2 * out[0], out

    return jax.grad(of, (0, 1, 2, 3), has_aux=True)(*inputs[:4])


def assert_close(found, wanted, tolerance=1e-5, least=1e-3):
    wanted = np.asarray(wanted, np.float64)
    largest = max(np.abs(wanted).max(), least)
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * largest


def assert_gradients_close(found, wanted, images, scale, tolerance=1e-5):
    """Those of scale and bias are sums over pairs that nearly cancel where a model is good: they
    are held to the size of what is summed. `scale * its gradient` is the sum of `images * theirs`.
    """
    summed = np.abs(np.asarray(wanted[0], np.float64) * images).sum() / scale
    for f, w in zip(found[:2], wanted[:2]):
        assert_close(f, w, tolerance)
    for f, w in zip(found[2:], wanted[2:]):
        assert_close(f, w, tolerance, summed)


TILED = {(n, c): functools.partial(f, c) for n, (f, _) in LOSSES.items() for c in (1, 4, B, 64)}


@pytest.mark.parametrize("chunk", [1, 4, B, 64])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_dense_form(name, chunk):
    for seed in range(3):
        args = inputs(seed)
        grads, (total, correct) = gradients(TILED[name, chunk], *args)
        wanted_grads, (wanted, wanted_correct) = gradients(LOSSES[name][1], *args)
        assert_close(total, wanted)
        np.testing.assert_array_equal(correct, wanted_correct)
        assert 0 < correct.sum() < (args[4] > 0).sum()
        assert_gradients_close(grads, wanted_grads, args[0], args[2])


def test_equals_open_clips():
    """The mean of its two cross-entropies, with its gradients."""
    images, texts, scale, *_ = inputs()
    ones = np.ones(B, np.float32)
    args = images, texts, scale, np.float32(0), ones, np.arange(B)
    grads, (total, _) = gradients(TILED["softmax", 4], *args)
    tensors = [torch.tensor(x, requires_grad=True) for x in (images, texts, scale)]
    theirs = open_clip.loss.ClipLoss()(*tensors)
    theirs.backward()
    assert_close(total / B, theirs.detach())
    found = [g / (2 * B) for g in grads[:3]]
    assert_gradients_close(found, [x.grad for x in tensors], images, scale)


def test_equals_open_clips_sigmoid():
    images, texts, scale, bias, *_ = inputs()
    args = images, texts, scale, bias, np.ones(B, np.float32), np.arange(B)
    grads, (total, _) = gradients(TILED["sigmoid", 4], *args)
    tensors = [torch.tensor(x, requires_grad=True) for x in (images, texts, scale, bias)]
    theirs = open_clip.loss.SigLipLoss()(*tensors)
    theirs.backward()
    assert_close(total / B, theirs.detach())
    found = [g / (2 * B) for g in grads]
    assert_gradients_close(found, [x.grad for x in tensors], images, scale)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(LOSSES)),
    st.lists(st.sampled_from([0.0, 1.0, 0.25]), min_size=6, max_size=6),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.integers(0, 99),
)
def test_pairs_without_weight_are_as_if_they_were_not_there(name, weight, label, seed):
    images, texts, scale, bias, *_ = inputs(seed, 6)
    weight, label = np.array(weight, np.float32), np.array(label, np.int32)
    loss = TILED[name, 4]
    args = images, texts, scale, bias, weight, label
    grads, (total, correct) = gradients(loss, *args)
    there = weight > 0
    assert not np.any(np.asarray(correct)[~there])
    for g in grads[:2]:
        assert not np.any(np.asarray(g)[~there])
    if not there.any():
        assert float(total) == 0
        return
    # The others alone, in a batch filled with something else.
    other = np.random.default_rng(7)
    filling = [np.where(there[:, None], x, units(other, 6)) for x in (images, texts)]
    again, (same, right) = gradients(loss, *filling, *args[2:])
    assert_close(same, total)
    np.testing.assert_array_equal(right, correct)
    assert_gradients_close(again, grads, images, scale)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name):
    images, texts, _, bias, weight, label = inputs()
    args = images, texts, np.float32(1e4), bias, weight, label
    grads, (total, _) = gradients(TILED[name, 4], *args)
    wanted_grads, (wanted, _) = gradients(LOSSES[name][1], *args)
    assert_close(total, wanted)
    assert_gradients_close(grads, wanted_grads, images, 1e4)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_features_are_summed_in_float32(name):
    args = inputs()
    half = [jnp.asarray(x, jnp.bfloat16) for x in args[:2]]
    grads, (total, _) = gradients(TILED[name, 4], *half, *args[2:])
    assert [g.dtype for g in grads] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
    assert total.dtype == jnp.float32
    exact = [np.asarray(x, np.float32) for x in half]
    wanted_grads, (wanted, _) = gradients(LOSSES[name][1], *exact, *args[2:])
    assert_close(total, wanted)
    grads = [np.asarray(g, np.float32) for g in grads]
    assert_gradients_close(grads, wanted_grads, exact[0], args[2], 2**-6)


# Costs


def shapes(rows: int, d: int) -> list:
    features = jax.ShapeDtypeStruct((rows, d), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    of_row = [jax.ShapeDtypeStruct((rows,), dtype) for dtype in (jnp.float32, jnp.int32)]
    return [features, features, number, number, *of_row]


@pytest.mark.parametrize("name", LOSSES)
def test_no_array_of_all_logits(name):
    rows, d, chunk = 2048, 32, 128
    tiled, dense = functools.partial(LOSSES[name][0], chunk), LOSSES[name][1]
    found = [gradients.trace(loss, *shapes(rows, d)) for loss in (tiled, dense)]
    largest = [max(a.size for a in all_avals(program.jaxpr)) for program in found]
    assert largest == [rows * d, rows * rows]
    memory = [program.lower().compile().memory_analysis().temp_size_in_bytes for program in found]
    assert memory[0] < 16 * rows * d * 4
    assert memory[1] > 4 * rows * rows


@pytest.mark.parametrize("name", LOSSES)
def test_products_worked_are_four_of_the_batch_squared(name):
    """Logits twice, and the gradients of both sides."""
    rows, d = 64, 8
    program = gradients.trace(functools.partial(LOSSES[name][0], 16), *shapes(rows, d))
    assert product_flops(program.jaxpr) == 4 * 2 * rows**2 * d
