"""Initial weights of a tower's blocks, against the standard deviations of the released code."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unijax.core import tree
from unijax.nn.encoder import Encoder, EncoderConfig
from unijax.nn.initializers import SCHEMES
from unijax.ops.attention import full_intervals

LAYERS, D, HIDDEN = 3, 128, 320
CUT = 0.5396  # standard deviation of a normal that is cut off at one of its own


def kernels(**changes) -> dict[str, np.ndarray]:
    config = EncoderConfig(LAYERS, HIDDEN, 2, 1e-6, **changes)
    x = jnp.zeros((1, 4, D))
    init = jax.jit(lambda key: Encoder(config).init(key, x, full_intervals(1, 4, 4)))
    flat = tree.flatten(nn.unbox(init(jax.random.key(0)))["params"])
    assert not any(np.any(v) for p, v in flat.items() if p.endswith("bias"))
    assert all((v == 1).all() for p, v in flat.items() if p.endswith("scale"))
    return {p.split("/")[-2]: np.asarray(v) for p, v in flat.items() if p.endswith("kernel")}


def check(found: dict[str, np.ndarray], wanted: dict[str, float | list[float]]) -> None:
    assert found.keys() == wanted.keys()
    for name, kernel in found.items():
        assert kernel.shape[0] == LAYERS
        std = kernel.std(axis=(1, 2))
        np.testing.assert_allclose(
            std, np.broadcast_to(wanted[name], LAYERS), rtol=0.03, err_msg=name
        )
        assert not np.array_equal(kernel[0], kernel[1])


def plain(value, out, fc1=None) -> dict:
    inputs = dict.fromkeys(("q_proj", "k_proj", "v_proj"), value)
    return inputs | {"fc1": value if fc1 is None else fc1, "projection_layer": out, "fc2": out}


BY_DEPTH = np.array([(2 * layer) ** -0.5 for layer in (1, 2, 3)])


@pytest.mark.parametrize(
    ("scheme", "wanted"),
    [
        ("normal", plain(0.02, 0.02)),
        ("eva01", plain(0.015 * CUT, 0.015 * CUT * BY_DEPTH)),
        ("eva_clip", plain(0.02, 0.02 * BY_DEPTH)),
        ("clip", plain(D**-0.5, D**-0.5 * (2 * LAYERS) ** -0.5, (2 * D) ** -0.5)),
    ],
)
def test_plain_blocks(scheme, wanted):
    found = kernels(init=scheme)
    check(found, wanted)
    if scheme == "eva01":
        assert np.abs(found["fc1"]).max() <= 0.015


def xavier(d_in: int, d_out: int) -> float:
    return math.sqrt(2 / (d_in + d_out))


def test_eva02_with_norms_in_the_mlp_is_larger():
    large = math.sqrt(math.log(2 * LAYERS))
    square, into = xavier(D, D), xavier(D, HIDDEN)
    found = kernels(init="eva02", hidden_act="swiglu", mlp_norm=True)
    check(
        found,
        {
            "q_proj": square, "k_proj": square, "v_proj": large * square,
            "projection_layer": large * square, "w1": large * into, "w2": large * into,
            "w3": large * into,
        },
    )  # fmt: skip


def test_eva02_without_is_as_of_packed_matrices():
    qkv, both = xavier(D, 3 * D), xavier(D, 2 * HIDDEN)
    wanted = dict.fromkeys(("q_proj", "k_proj", "v_proj"), qkv) | {
        "projection_layer": xavier(D, D), "w1": both, "w2": both, "w3": xavier(HIDDEN, D)
    }  # fmt: skip
    check(kernels(init="eva02", hidden_act="swiglu"), wanted)


@pytest.mark.parametrize(
    ("scheme", "patch", "token"),
    [
        ("normal", 0.02, 0.02),
        ("eva01", 0.015 * CUT, 0.015 * CUT),
        ("eva02", xavier(588, D), 0.02 * CUT),
        ("eva_clip", 588**-0.5 / 3**0.5, 0.02),
        ("clip", 588**-0.5 / 3**0.5, D**-0.5),
    ],
)
def test_patches_and_tokens(scheme, patch, token):
    key = jax.random.key(0)
    found = SCHEMES[scheme]
    assert float(found.patch(key, (588, D)).std()) == pytest.approx(patch, rel=0.03)
    assert float(found.token(key, (500, D)).std()) == pytest.approx(token, rel=0.03)
    one = found.token(key, (D * 100,))  # a class token is a vector
    assert one.shape == (D * 100,)


def test_layer_scale_starts_where_it_is_told():
    config = EncoderConfig(LAYERS, 8, 2, 1e-6, layer_scale=0.25)
    x = jnp.zeros((1, 4, 8))
    init = jax.jit(lambda key: Encoder(config).init(key, x, full_intervals(1, 4, 4)))
    layers = nn.unbox(init(jax.random.key(0))["params"])["layers"]
    for name in ("gamma_1", "gamma_2"):
        np.testing.assert_array_equal(layers[name], np.full((LAYERS, 8), 0.25, np.float32))
