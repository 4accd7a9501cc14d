"""CLIP's towers against transformers and open_clip on random weights."""

import dataclasses
import functools
import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.oracles import open_clip
from tests.walk import product_flops
from tests.weights import distance, randomise, shapes_of, through
from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.interop import clip_parts
from unijax.interop.table import Table, linear
from unijax.models.clip import (
    TEXT_SIZES,
    VISION_SIZES,
    ClipText,
    ClipTextConfig,
    ClipVision,
    ClipVisionConfig,
)

VISION, TEXT = VISION_SIZES["clip_vit_test"], TEXT_SIZES["clip_text_test"]
OUT = 24  # of the projections
END = TEXT.vocab_size - 1  # the largest id, as in CLIP's vocabulary


@functools.cache
def vision_shapes(cfg: ClipVisionConfig) -> dict:
    pixels = jax.ShapeDtypeStruct((1, cfg.image_size, cfg.image_size, 3), jnp.float32)
    return jax.eval_shape(ClipVision(cfg).init, jax.random.key(0), pixels)["params"]


@functools.cache
def text_shapes(cfg: ClipTextConfig) -> dict:
    ids, length = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, 1), (1,)))
    return jax.eval_shape(ClipText(cfg).init, jax.random.key(0), ids, length)["params"]


# Pictures


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def vision(request):
    cfg = dataclasses.replace(VISION, hidden_act=request.param)
    config = CLIPVisionConfig(
        hidden_size=cfg.hidden_size,
        intermediate_size=cfg.intermediate_size,
        num_hidden_layers=cfg.num_hidden_layers,
        num_attention_heads=cfg.num_attention_heads,
        image_size=cfg.image_size,
        patch_size=cfg.patch_size,
        hidden_act=cfg.hidden_act,
        projection_dim=OUT,
    )
    model = randomise(CLIPVisionModelWithProjection(config))
    head = linear("vision_projection", "visual_projection", bias=False)
    table = Table((*clip_parts.hf_vision(cfg), *head), clip_parts.DROPPED)
    shapes = shapes_of({"vision_model": nn.unbox(vision_shapes(cfg))})
    shapes["vision_projection/kernel"] = (cfg.hidden_size, OUT)
    return cfg, model, through(table, model.state_dict(), shapes)


PIXELS = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)


def hidden_states(model):
    with torch.no_grad():
        x = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
        return model.vision_model(x, output_hidden_states=True).hidden_states


def test_tokens_before_the_last_norm_are_transformers_last_hidden_state(vision):
    cfg, model, params = vision
    before = ClipVision(dataclasses.replace(cfg, features="pre_norm"))
    own = {k: v for k, v in params["vision_model"].items() if k != "post_layernorm"}
    assert distance(jax.jit(before.apply)({"params": own}, PIXELS), hidden_states(model)[-1]) < 1e-5


def test_a_layer_less_is_what_llava_reads(vision):
    cfg, model, params = vision
    less = dataclasses.replace(cfg, features="pre_norm", num_hidden_layers=1)
    own = {k: v for k, v in params["vision_model"].items() if k != "post_layernorm"}
    own["encoder"] = jax.tree.map(lambda x: x[:1], own["encoder"])
    ours = jax.jit(ClipVision(less).apply)({"params": own}, PIXELS)
    assert distance(ours, hidden_states(model)[-2]) < 1e-5


def test_every_token_projected_is_the_teachers_target(vision):
    """EVA's target: all patches through the last norm and the projection."""
    cfg, model, params = vision
    with torch.no_grad():
        last = hidden_states(model)[-1]
        wanted = model.visual_projection(model.vision_model.post_layernorm(last))
        x = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
        np.testing.assert_allclose(model(x).image_embeds, wanted[:, 0], rtol=1e-4, atol=1e-5)
    ours = jax.jit(ClipVision(cfg).apply)({"params": params["vision_model"]}, PIXELS)
    assert ours.shape == (2, 1 + cfg.num_tokens, cfg.hidden_size)
    assert distance(ours @ params["vision_projection"]["kernel"], wanted) < 1e-5


def test_the_activations_are_told_apart(vision):
    cfg, model, params = vision
    with torch.no_grad():
        wanted = model.vision_model.post_layernorm(hidden_states(model)[-1])
    for act in {"quick_gelu", "gelu", "gelu_tanh"} - {cfg.hidden_act}:
        other = ClipVision(dataclasses.replace(cfg, hidden_act=act))
        ours = jax.jit(other.apply)({"params": params["vision_model"]}, PIXELS)
        assert distance(ours, wanted) > 1e-5, act


# Texts


def texts(lengths, tokens=TEXT.max_length, behind=0, seed=0) -> np.ndarray:
    """Random ids that end with `END`, then `behind`."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, END, (len(lengths), tokens)).astype(np.int32)
    for row, n in zip(ids, lengths):
        row[n - 1], row[n:] = END, behind
    return ids


LENGTHS = np.array([12, 5, 2, 1], np.int32)


@functools.cache
def hf_text(act: str):
    config = CLIPTextConfig(
        vocab_size=TEXT.vocab_size,
        max_position_embeddings=TEXT.max_length,
        hidden_size=TEXT.hidden_size,
        intermediate_size=TEXT.intermediate_size,
        num_hidden_layers=TEXT.num_hidden_layers,
        num_attention_heads=TEXT.num_attention_heads,
        hidden_act=act,
        projection_dim=OUT,
        eos_token_id=END,
        bos_token_id=0,
    )
    head = linear("text_projection", "text_projection", bias=False)
    table = Table((*clip_parts.hf_text(), *head), clip_parts.DROPPED)
    return randomise(CLIPTextModelWithProjection(config)), table


@functools.cache
def open_clip_text(act: str):
    model = open_clip.transformer.TextTransformer(
        context_length=TEXT.max_length,
        vocab_size=TEXT.vocab_size,
        width=TEXT.hidden_size,
        heads=TEXT.num_attention_heads,
        layers=TEXT.num_hidden_layers,
        mlp_ratio=TEXT.intermediate_size / TEXT.hidden_size,
        output_dim=OUT,
        act_layer={"gelu": torch.nn.GELU, "quick_gelu": open_clip.transformer.QuickGELU}[act],
    )
    return randomise(model), Table(tuple(clip_parts.openai_text("")), clip_parts.DROPPED)


def through_text(model, table):
    shapes = shapes_of({"text_model": nn.unbox(text_shapes(TEXT))})
    shapes["text_projection/kernel"] = (TEXT.hidden_size, OUT)
    return through(table, model.state_dict(), shapes)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("oracle", [hf_text, open_clip_text])
def test_the_vector_of_a_text_equals_the_reference(oracle, act):
    model, table = oracle(act)
    params = through_text(model, table)
    ids = texts(LENGTHS)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids).long())
        wanted = getattr(wanted, "text_embeds", wanted)
    tower = ClipText(dataclasses.replace(TEXT, hidden_act=act))
    ours = jax.jit(tower.apply)({"params": params["text_model"]}, ids, LENGTHS)
    assert ours.shape == (4, TEXT.hidden_size)
    assert distance(ours @ params["text_projection"]["kernel"], wanted) < 1e-5


@functools.cache
def text_params():
    return {"params": through_text(*open_clip_text("gelu"))["text_model"]}


@functools.partial(jax.jit, static_argnums=0)
def run_text(cfg: ClipTextConfig, ids, length):
    return ClipText(cfg).apply(text_params(), ids, length)


BIDIRECTIONAL = dataclasses.replace(TEXT, causal=False, pooling="mean")


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    st.lists(st.integers(1, TEXT.max_length), min_size=4, max_size=4),
    st.sampled_from([TEXT, BIDIRECTIONAL, dataclasses.replace(TEXT, causal=False)]),
)
def test_what_stands_behind_a_text_has_no_influence(lengths, cfg):
    lengths = np.array(lengths, np.int32)
    ids = texts(lengths)
    other = texts(lengths, behind=7)
    np.testing.assert_allclose(
        run_text(cfg, ids, lengths), run_text(cfg, other, lengths), atol=1e-6
    )


def test_a_tower_that_sees_all_is_another():
    ids = texts(LENGTHS)
    causal, whole, mean = (
        np.asarray(run_text(cfg, ids, LENGTHS))
        for cfg in (TEXT, dataclasses.replace(TEXT, causal=False), BIDIRECTIONAL)
    )
    # A text of one token is the same to all three.
    for a, b in ((causal, whole), (whole, mean)):
        assert (np.abs(a - b).max(axis=1)[:3] > 1e-3).all()
        np.testing.assert_allclose(a[3], b[3], atol=1e-6)


# Sizes


def count(shapes: dict) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def test_openais_large_clip_has_the_published_number():
    vision, text = VISION_SIZES["clip_vit_large_patch14_224"], TEXT_SIZES["clip_text_768x12"]
    with torch.device("meta"):
        theirs = CLIPModel(
            CLIPConfig(
                text_config=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
                vision_config=dict(
                    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                    num_attention_heads=16, patch_size=14,
                ),
                projection_dim=768,
            )
        )  # fmt: skip
    towers = count(vision_shapes(vision)) + count(text_shapes(text))
    whole = towers + (1024 + 768) * 768 + 1
    assert whole == sum(p.numel() for p in theirs.parameters()) == 427_616_513


def test_flops_are_those_of_the_program():
    pixels = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    program = jax.make_jaxpr(ClipVision(VISION).apply)({"params": vision_shapes(VISION)}, pixels)
    assert product_flops(program) == VISION.flops_per_image()
    ids, length = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, 12), (1,)))
    program = jax.make_jaxpr(ClipText(BIDIRECTIONAL).apply)(
        {"params": text_shapes(TEXT)}, ids, length
    )
    per_token, per_pair = BIDIRECTIONAL.flops_per_token(), BIDIRECTIONAL.flops_per_pair()
    assert product_flops(program) == 12 * per_token + BIDIRECTIONAL.pairs_per_text(12) * per_pair
    # Of a causal text the pairs that are seen count.
    assert (BIDIRECTIONAL.pairs_per_text(12), TEXT.pairs_per_text(12)) == (144, 78)


def test_every_parameter_has_logical_axes():
    for shapes in (vision_shapes(VISION), text_shapes(TEXT)):
        for path, leaf in tree.flatten(shapes).items():
            assert isinstance(leaf, nn.LogicallyPartitioned), path
            assert set(leaf.names) <= axes.ALL
            assert len(leaf.names) == len(leaf.value.shape)


def test_sizes_that_cannot_work_are_refused():
    for config, change, message in (
        (VISION, {"image_size": 30}, "found 30; expected a multiple of patch_size=8"),
        (VISION, {"num_attention_heads": 5}, "found 5; expected a divisor of hidden_size=32"),
        (VISION, {"hidden_act": "swiglu"}, "expected one of .*quick_gelu"),
        (VISION, {"features": "cls"}, "expected one of"),
        (TEXT, {"num_attention_heads": 5}, "found 5; expected a divisor of hidden_size=32"),
        (TEXT, {"pooling": "first"}, "expected one of .*eot.*mean"),
        (TEXT, {"init": "zeros"}, "expected one of .*clip"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(config, **change)
