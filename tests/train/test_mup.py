"""Maximal-update parametrisation: what changes with width, and the coordinate check."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import long
from tests.systems.test_janus import GEN, SMALL, SYSTEM, UND
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.data.document import Document, TextSpan
from unijax.nn.stack import unstack
from unijax.ops.attention import packed_intervals
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.systems.janus import Janus
from unijax.systems.slots import values_of
from unijax.train import mup, setup
from unijax.train.kinds import Leaf
from unijax.train.optimizer import GroupedOptimizer
from unijax.train.stage import KINDS, OptimizerConfig, Rule, StageConfig
from unijax.train.state import merge

BASE, HEAD_DIM = 32, 8
WIDE = 256


def janus(width: int, layers: int = 2) -> Janus:
    """Decoder, adaptors, heads and tower as wide as asked; heads of attention grow too."""
    c = SYSTEM.config
    text = dataclasses.replace(
        c.text, hidden_size=width, intermediate_size=3 * width // 2, head_dim=width // 4,
        num_hidden_layers=layers,
    )  # fmt: skip
    vision = dataclasses.replace(
        c.vision, hidden_size=width // 2, intermediate_size=width, features="pre_norm"
    )
    return dataclasses.replace(SYSTEM, config=dataclasses.replace(c, text=text, vision=vision))


def shapes(system):
    return jax.eval_shape(lambda: system.init(jax.random.key(0)))


def scales(system, base):
    return mup.scales(shapes(system), shapes(base), system.head_dims, base.head_dims)


def test_table_3_by_name():
    found = scales(janus(128, layers=3), janus(32))
    quarter, half = 1 / 4, 1 / 2  # four times the width
    expected = {
        "language_model/embed_tokens/embedding": (1, 1),
        "language_model/layers/input_layernorm/scale": (1, 1),
        "language_model/layers/self_attn/q_proj/kernel": (half * half, quarter * half),
        "language_model/layers/self_attn/k_proj/kernel": (half, quarter),
        "language_model/layers/self_attn/o_proj/kernel": (half, quarter),
        "language_model/layers/mlp/up_proj/kernel": (half, quarter),
        "language_model/layers/mlp/down_proj/kernel": (half, quarter),
        "language_model/norm/scale": (1, 1),
        "language_model/lm_head/kernel": (quarter, quarter),
        "vision_model/embeddings/patch_embedding/kernel": (1, 1),
        "vision_model/embeddings/position_embedding/embedding": (1, 1),
        "vision_model/encoder/layers/self_attn/q_proj/kernel": (half * half, quarter * half),
        "vision_model/encoder/layers/self_attn/q_proj/bias": (half, half),
        "vision_model/encoder/layers/self_attn/v_proj/bias": (1, 1),
        "vision_model/encoder/layers/mlp/fc2/kernel": (half, quarter),
        "aligner/fc1/kernel": (half, quarter),  # from the tower's width, which grows here
        "aligner/hidden_layers_0/kernel": (half, quarter),
        "generation_embeddings/embedding": (1, 1),
        "generation_aligner/fc1/kernel": (1, 1),
        "generation_aligner/hidden_layers_0/kernel": (half, quarter),
        "generation_head/proj_out/kernel": (half, quarter),
        "generation_head/vision_head/kernel": (quarter, quarter),
        "generation_head/vision_head/bias": (1, 1),
    }
    for path, (init, rate) in expected.items():
        assert (found[path].init, found[path].rate) == pytest.approx((init, rate)), path
    assert all(found[p] == mup.Scale(1.0, 1.0) for p in found if p.startswith("vqmodel/"))


def test_at_the_base_nothing_changes():
    assert set(scales(janus(64), janus(64)).values()) == {mup.Scale(1.0, 1.0)}


def test_another_base_is_named():
    base = janus(32)
    vision = dataclasses.replace(base.config.vision, features="post_norm")
    base = dataclasses.replace(base, config=dataclasses.replace(base.config, vision=vision))
    with pytest.raises(UserError, match="post_layernorm"):
        scales(janus(64), base)


def with_text(system, **options):
    text = dataclasses.replace(system.config.text, **options)
    return dataclasses.replace(system, config=dataclasses.replace(system.config, text=text))


@pytest.mark.parametrize("qk_norm", ["layer_norm", "rms_norm"])
def test_with_normed_queries_attention_is_scaled_by_the_norm(qk_norm):
    """The scale of `q_proj` is undone by the norm behind it."""
    wide, base = (with_text(janus(width), qk_norm=qk_norm) for width in (128, 32))
    found, plain = scales(wide, base), scales(janus(128), janus(32))
    attention = "language_model/layers/self_attn"
    assert found[f"{attention}/q_norm/scale"] == mup.Scale(0.5, 0.5)
    assert found[f"{attention}/k_norm/scale"] == mup.Scale(1.0, 1.0)
    assert found[f"{attention}/q_proj/kernel"] == plain[f"{attention}/k_proj/kernel"]
    if qk_norm == "layer_norm":
        assert found[f"{attention}/q_norm/bias"] == mup.Scale(0.5, 0.5)


def test_a_tied_head_is_refused():
    wide, base = (with_text(janus(width), tie_word_embeddings=True) for width in (64, 32))
    with pytest.raises(UserError, match="language_model: a head that is the embedding"):
        scales(wide, base)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_adams_table_is_refused_to_other_optimizers(kind):
    optimizers = {"rest": OptimizerConfig(0.1, kind=kind, weight_decay=0.1)}
    stage = dataclasses.replace(STAGE, optimizers=STAGE.optimizers | optimizers)
    with pytest.raises(UserError, match=rf"mup_base.*optimizers\.rest\.kind='{kind}'.*'adamw'"):
        setup.build(
            janus(64), stage, make_mesh(MeshConfig()), "data", jnp.float32, 0, mup_base=janus(32)
        )


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_multiplier_is_a_factor_on_start_and_rate(factor):
    # Lemma J.1 through the optimizer: f(factor * w) from w trains as f(w) from factor * w at
    # factor times the rate. So neither attention nor the heads need a multiplier.
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((9, 4), (9, 3)))
    start = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def train(start, multiplier, rate):
        rules = {"a/kernel": Rule("a", lr_multiple=rate)}
        config = OptimizerConfig(0.05, eps=1e-20, clip_norm=1e9)
        optimizer = GroupedOptimizer(
            StageConfig("s", 20, (), {"main": config}), rules, {"a/kernel": Leaf()}
        )
        params = {"a": {"kernel": start}}
        state = optimizer.init(params)
        loss = jax.grad(lambda p: jnp.mean((jnp.tanh(x @ p["a"]["kernel"] * multiplier) - y) ** 2))
        for _ in range(20):
            params, state = optimizer.update(loss(params), state, params, jnp.array(True))
        return params["a"]["kernel"] * multiplier

    multiplied, folded = train(start, factor, 1.0), train(start * factor, 1.0, factor)
    np.testing.assert_allclose(multiplied, folded, rtol=1e-4)
    assert np.abs(multiplied - start * factor).max() > 0.1  # it did train


STAGE = StageConfig(
    "coordinates", 9, (Rule("vqmodel/", frozen=True), Rule("")), {"main": OptimizerConfig(0.01)}
)
STEPS = 5


def batch():
    """Every kind of span."""
    rng = np.random.default_rng(3)
    rows = []
    for row in range(2):
        text = [TextSpan(tuple(map(int, rng.integers(7, 48, 12))), (1.0,) * 12) for _ in range(2)]
        rows.append([Document(f"s/0/{row}", (text[0], UND[row], text[1], GEN[row], GEN[row + 1]))])
    return SMALL.batch(rows)


def activations(system, params, rows) -> dict[str, np.ndarray]:
    """Outputs of every module of the decoder, of tower and adaptors, and of both heads."""
    codes, features = (values_of(system, params, rows, name) for name in ("gen", "und"))
    x = system.embed(params, rows, codes)
    decoder = system.language_model.clone(unrolled=True)
    seen = packed_intervals(rows.segment, rows.kind, rows.image)
    (hidden, _), captured = decoder.apply(
        {"params": unstack(params["language_model"], "layers")},
        x, rows.position, *seen, capture_intermediates=True,
    )  # fmt: skip
    found = {
        # Some modules give their cache too.
        path.removesuffix("/__call__"): out[0] if isinstance(out, tuple) else out
        for path, (out,) in tree.flatten(captured["intermediates"]).items()
    }
    for path in found:
        if path.endswith("q_proj"):  # where attention's multiplier went
            found[path] *= (system.head_dims["language_model"] / HEAD_DIM) ** 0.5
    return found | {
        "tower": features[:, 0],
        "aligner": system.embed_und(params, features)[:, 0],
        "generation_aligner": system.embed_codes(params, codes)[:, 0],
        "text logits": system.text_logits(params, hidden),
        "code logits": system.code_logits(params, hidden),
    }


@functools.cache
def look(system: Janus):
    """Compiled once for both parametrisations."""
    return jax.jit(functools.partial(activations, system))


def changes(system: Janus, base: Janus | None) -> dict[str, float]:
    """Root mean square, over coordinates, of how far activations went in a few steps."""
    rows = batch()
    trainer = setup.build(
        system, STAGE, make_mesh(MeshConfig()), "data", jnp.float32, 0, mup_base=base
    )
    params = trainer.init(0)
    before = look(system)(params, rows)
    state = trainer.begin(params)
    for _ in range(STEPS):
        state, _ = trainer.train_step(state, rows)
    after = look(system)(merge(state.params, state.frozen), rows)
    return {k: float(jnp.sqrt(jnp.mean((after[k] - before[k]) ** 2))) for k in before}


@long
def test_coordinate_check():
    # How far every activation goes in five steps is the same at 8 times the width, and is not
    # under the standard parametrisation, which at the base's width is the same run.
    narrow = changes(janus(BASE), janus(BASE))
    assert len(narrow) > 20
    for base, holds in ((janus(BASE), True), (None, False)):
        wide = changes(janus(WIDE), base)
        grown = {k: wide[k] / narrow[k] for k in narrow}
        if holds:
            # Exponents of width come in halves: these are nearer to 0 than to one of them.
            assert max(grown.values()) < (WIDE / BASE) ** 0.25, grown
            assert min(grown.values()) > (WIDE / BASE) ** -0.25, grown
        else:
            assert grown["text logits"] > 3, grown
            assert grown["code logits"] > 3, grown
            assert grown["layers_1"] > 30, grown
