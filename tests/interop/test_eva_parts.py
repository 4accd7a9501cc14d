"""EVA's weights in timm's names, in their authors' and in open_clip's, both ways."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.test_eva import EVA02, KINDS, build, init_shapes, pixels_of, theirs
from tests.oracles import open_clip, timm
from tests.weights import StateDict, back, distance, randomise, shapes_of, through
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop import eva_parts
from unijax.interop.eva_parts import Layout, eva_clip, eva_part, layout_of, read_eva, released
from unijax.interop.table import TensorInfo, check_coverage, foreign_shapes
from unijax.models.clip import TEXT_SIZES, ClipText
from unijax.models.eva import SIZES, Eva

HEAD = ("vision_projection", "head")
WIDTH = 24  # of the head


def shapes(cfg, head=False):
    found = shapes_of({"vision_model": nn.unbox(init_shapes(cfg))})
    if head:
        found["vision_projection/kernel"] = (cfg.hidden_size, WIDTH)
        found["vision_projection/bias"] = (WIDTH,)
    return found


def random_params(cfg, head=False):
    rng = np.random.default_rng(0)
    return tree.unflatten(
        {p: rng.normal(size=s).astype(np.float32) for p, s in shapes(cfg, head).items()}
    )


def same(a: dict, b: dict) -> None:
    a, b = tree.flatten(a), tree.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


LAYOUTS = [
    Layout(start, dialect, separate)
    for start, dialect in (("", "timm"), ("", "authors"), ("visual.", "authors"))
    for separate in (False, True)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again_is_equal_to_the_bit(kind, layout):
    cfg = dataclasses.replace(KINDS[kind], mask_token=True)
    params = random_params(cfg, head=True)
    table = eva_part(cfg, layout, HEAD)
    state = back(table, params)
    same(through(table, state, shapes(cfg, head=True)), params)
    # And a reader finds out by itself how the checkpoint is laid out.
    found = layout_of(state, "")
    assert (found.theirs, found.separate) == (layout.theirs, layout.separate)
    same(tree.unflatten(read_eva(StateDict(state), cfg, shapes(cfg, True), HEAD)), params)


@pytest.mark.parametrize("kind", KINDS)
def test_timm_reads_the_authors_form(kind):
    """timm's own filter of their checkpoints, then its network: two that nobody here wrote."""
    cfg = KINDS[kind]
    model = randomise(build(cfg))
    params = through(eva_part(cfg, released(cfg)), model.state_dict(), shapes(cfg))
    masking = dataclasses.replace(cfg, mask_token=True)
    params["vision_model"]["embeddings"]["mask_token"] = np.ones(cfg.hidden_size, np.float32)
    state = back(eva_part(masking, released(cfg, "authors")), params)
    state = {n: torch.from_numpy(np.array(x)) for n, x in state.items() if n != "mask_token"}
    other = build(cfg).eval()
    other.load_state_dict(timm.models.eva.checkpoint_filter_fn(state, other), strict=True)
    pixels = pixels_of(cfg, 1)
    np.testing.assert_array_equal(theirs(other, pixels), theirs(model, pixels))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_pairs_that_turn_together_come_apart(heads, quarter, d_in):
    size = heads * quarter * 4
    kernel, bias = eva_parts.rotary(heads)
    theirs = np.arange(size * d_in).reshape(size, d_in)
    ours = kernel.to_ours(theirs)
    half = size // heads // 2
    for head in range(heads):
        for i in range(half):
            for member in (0, 1):
                row = theirs[head * 2 * half + 2 * i + member]
                np.testing.assert_array_equal(ours[:, head * 2 * half + member * half + i], row)
    np.testing.assert_array_equal(kernel.to_theirs(ours), theirs)
    np.testing.assert_array_equal(bias.to_theirs(bias.to_ours(theirs[:, 0])), theirs[:, 0])
    np.testing.assert_array_equal(bias.to_ours(theirs[:, 0]), ours[0])


# At another grid, or with other patches


def torch_resized(x: np.ndarray, size: int) -> np.ndarray:
    """[h, w, D], as the authors' `interpolate_pos_embed` calls PyTorch."""
    out = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(2, 0, 1)[None], size=(size, size), mode="bicubic",
        align_corners=False,
    )  # fmt: skip
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("layout", [Layout("visual.trunk.", "timm", True), LAYOUTS[2]], ids=str)
def test_a_tower_starts_from_another_grid_and_other_patches(layout):
    cfg = dataclasses.replace(EVA02, rope_grid=4)
    params = random_params(cfg)
    state = back(eva_part(cfg, layout), params)
    other = dataclasses.replace(cfg, image_size=70, patch_size=10)
    found = tree.unflatten(read_eva(StateDict(state), other, shapes(other)))
    old, new = (p["vision_model"].pop("embeddings") for p in (params, found))
    same(found, params)  # all the rest is the same
    table = old["position_embedding"]["embedding"]
    wanted = torch_resized(table[1:].reshape(4, 4, -1), 7).reshape(49, -1)
    grown = new["position_embedding"]["embedding"]
    np.testing.assert_array_equal(grown[0], table[0])
    np.testing.assert_allclose(grown[1:], wanted, atol=1e-5)
    kernel = old["patch_embedding"]["kernel"].reshape(8, 8, -1)
    wanted = torch_resized(kernel, 10).reshape(300, -1)
    np.testing.assert_allclose(new["patch_embedding"]["kernel"], wanted, atol=1e-5)


def test_half_precision_stays_what_it_is():
    state = back(eva_part(EVA02, released(EVA02)), random_params(EVA02))
    state = {n: x.astype(np.float16) for n, x in state.items()}
    other = dataclasses.replace(EVA02, image_size=40, patch_size=10)
    found = read_eva(StateDict(state), other, shapes(other))
    assert {x.dtype for x in found.values()} == {np.dtype(np.float16)}


# What is refused


def refusal(state, cfg, head=None) -> str:
    with pytest.raises(UserError) as error:
        read_eva(StateDict(state), cfg, shapes(cfg, head is not None), head)
    return str(error.value)


def test_another_kind_of_tower_is_told():
    packed, large = KINDS["EVA-02 packed"], KINDS["EVA-CLIP"]
    state = back(eva_part(packed, released(packed)), random_params(packed))
    message = refusal(state, large)
    assert "tensors missing" in message
    assert "mlp.norm.weight" in message
    state = back(eva_part(large, released(large)), random_params(large))
    assert "attn.norm.weight" in refusal(state, dataclasses.replace(large, attention_norm=False))
    assert "blocks.2.norm1.weight" in refusal(
        state, dataclasses.replace(large, num_hidden_layers=3)
    )


def test_what_holds_no_tower_is_told():
    state = back(eva_part(EVA02, released(EVA02)), random_params(EVA02))
    assert "found 0 tensors called *patch_embed.proj.weight" in refusal({"a": np.ones(1)}, EVA02)
    twice = state | {f"visual.{n}": x for n, x in state.items()}
    assert "found 2 tensors called" in refusal(twice, EVA02)
    del state["pos_embed"]
    assert "1 tensors missing (pos_embed)" in refusal(state, EVA02)
    state["pos_embed"] = np.zeros((1, 15, 32), np.float32)
    assert "15 positions; expected one for the class token, and those of a square" in refusal(
        state, EVA02
    )


def test_constants_heads_and_other_towers_are_left_out():
    table = eva_part(EVA02, Layout("visual.", "authors", False))
    state = back(table, random_params(EVA02))
    more = ("rope.freqs_cos", "blocks.1.attn.rope.freqs_sin", "head.bias", "lm_head.weight")
    state |= {f"visual.{name}": np.zeros(1) for name in (*more, "mask_token")}
    state |= {"text.ln_final.weight": np.zeros(1), "logit_scale": np.zeros(())}
    through(table, state, shapes(EVA02))
    state["visual.blocks.0.attn.other"] = np.zeros(1)
    assert "visual.blocks.0.attn.other" in refusal(state, EVA02)


# Whole EVA-CLIPs


EVA_CLIP = {  # open_clip's name: tower, text tower, common width, and all parameters
    "EVA01-g-14": ("eva_giant_patch14_clip_224", "clip_text_768x12", 1024, 1_136_435_841),
    "EVA01-g-14-plus": ("eva_giant_patch14_clip_224", "clip_text_1024x24", 1024, 1_366_621_569),
    "EVA02-B-16": ("eva02_base_patch16_clip_224", "clip_text_512x12", 512, 149_691_137),
    "EVA02-L-14": ("eva02_large_patch14_clip_224", "clip_text_768x12", 768, 427_755_457),
    "EVA02-L-14-336": ("eva02_large_patch14_clip_336", "clip_text_768x12", 768, 428_083_137),
    "EVA02-E-14": ("eva02_enormous_patch14_clip_224", "clip_text_1024x24", 1024, 4_704_589_569),
    "EVA02-E-14-plus": (
        "eva02_enormous_patch14_clip_224", "clip_text_1280x32", 1024, 5_044_889_089
    ),
}  # fmt: skip


@functools.cache
def text_shapes(name: str):
    ids, length = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, 1), (1,)))
    tower = ClipText(TEXT_SIZES[name])
    return nn.unbox(jax.eval_shape(tower.init, jax.random.key(0), ids, length)["params"])


def clip_shapes(vision, text: str, width: int) -> dict:
    towers = {"vision_model": nn.unbox(init_shapes(vision)), "text_model": text_shapes(text)}
    return shapes_of(towers) | {
        "vision_projection/kernel": (vision.hidden_size, width),
        "vision_projection/bias": (width,),
        "text_projection/kernel": (TEXT_SIZES[text].hidden_size, width),
        "similarity/scale": (),
    }


class Shapes:
    """A source that nothing is read of."""

    where = "meta"

    def __init__(self, model):
        state = model.state_dict()
        self.tensors = {n: TensorInfo(tuple(t.shape), np.dtype("f4")) for n, t in state.items()}

    def read(self, name):
        raise AssertionError(name)


@pytest.mark.parametrize("name", EVA_CLIP)
def test_every_tensor_of_every_published_clip_has_its_place(name):
    vision, text, width, number = EVA_CLIP[name]
    with torch.device("meta"):  # gigabytes otherwise
        model = open_clip.create_model(name, device="meta")
    cfg = SIZES[vision]
    table = eva_clip(cfg, released(cfg, theirs="visual.trunk."))
    check_coverage(table, clip_shapes(cfg, text, width), Shapes(model), "")
    assert sum(p.numel() for p in model.parameters()) == number


def test_the_authors_form_of_every_clip_has_as_many_tensors():
    for name, (vision, text, width, _) in EVA_CLIP.items():
        cfg = SIZES[vision]
        own = clip_shapes(cfg, text, width)
        found = [
            foreign_shapes(eva_clip(cfg, layout), own)
            for layout in (
                released(cfg, theirs="visual.trunk."),
                released(cfg, "authors", "visual."),
            )
        ]
        assert len(found[0]) == len(found[1]), name


def test_a_whole_clip_scores_as_open_clip_does():
    """EVA02-CLIP-B/16 at full width, two layers of each tower."""
    model = open_clip.create_model("EVA02-B-16")
    del model.visual.trunk.blocks[2:]
    del model.text.transformer.resblocks[2:]
    randomise(model)
    vision, text, width, _ = EVA_CLIP["EVA02-B-16"]
    vision = dataclasses.replace(SIZES[vision], num_hidden_layers=2)
    text = dataclasses.replace(TEXT_SIZES[text], num_hidden_layers=2)
    own = clip_shapes(SIZES["eva02_base_patch16_clip_224"], "clip_text_512x12", width)
    own = {p: (2, *s[1:]) if "/layers/" in p else s for p, s in own.items()}
    table = eva_clip(vision, released(vision, theirs="visual.trunk."))
    params = through(table, model.state_dict(), own)
    pixels = pixels_of(vision, 2)
    ids = np.zeros((3, 77), np.int32)
    for row, length in zip(ids, (77, 9, 2)):
        row[: length - 1] = np.random.default_rng(length).integers(1, 49406, length - 1)
        row[length - 1] = 49407
    with torch.no_grad():
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        images, texts, scale = model(x, torch.from_numpy(ids).long())
        wanted = scale * images @ texts.T

    @jax.jit
    def run(params, pixels, ids):
        token = Eva(vision).apply({"params": params["vision_model"]}, pixels)[:, 0]
        head = params["vision_projection"]
        images = token @ head["kernel"] + head["bias"]
        texts = ClipText(text).apply({"params": params["text_model"]}, ids, jnp.array([77, 9, 2]))
        texts = texts @ params["text_projection"]["kernel"]
        images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
        return jnp.exp(params["similarity"]["scale"]) * images @ texts.T

    assert distance(run(params, pixels, ids), wanted) < 1e-4
