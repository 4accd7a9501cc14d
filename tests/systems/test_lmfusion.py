"""LMFusion: what every decoder must do, and the invariants of twins (arXiv 2412.15188)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.conftest import write_run
from tests.systems import test_transfusion
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, words
from tests.systems.system_suite import LONGEST
from unijax.core import tree
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data.document import Document
from unijax.main.config import load
from unijax.main.run import resolve
from unijax.main.train import initial_params
from unijax.models.llama import Layer, attend
from unijax.ops.attention import packed_intervals
from unijax.ops.rope import rope_tables
from unijax.parallel.sharding import MeshConfig
from unijax.systems.lmfusion import RECIPE, SIZES, LMFusion, LMFusionConfig
from unijax.systems.transfusion import Transfusion
from unijax.train.stage import Rule
from unijax.train.weights import save_weights

FIELDS = {
    f.name: getattr(test_transfusion.CONFIG, f.name)
    for f in dataclasses.fields(test_transfusion.CONFIG)
}
CONFIG = LMFusionConfig(**FIELDS)
SHALLOW = dataclasses.replace(CONFIG, separation="shallow")
FROZEN = (Rule("autoencoder/", frozen=True), Rule("language_model/", frozen=True))


class TestLMFusion(DecoderSuite):
    long = LONGEST - {"test_what_is_frozen_has_no_state_and_does_not_move"}
    small = SmallRows(LMFusion(CONFIG), rules=FROZEN)
    recipe = RECIPE
    edges = test_transfusion.TestTransfusion.edges
    may_gather = test_transfusion.TestTransfusion.may_gather
    # Hidden states of images are found among all positions, behind those of text.
    may_gather_positions = (
        *test_transfusion.TestTransfusion.may_gather_positions, "jvp(jit(_where))/select_n",
    )  # fmt: skip


SMALL = TestLMFusion.small
PARAMS = SMALL.params
IMAGES = SMALL.images["gen"]
ROWS = [
    [Document("a", (words(8, 9, 10), IMAGES[0], words(11))), Document("b", (words(9), IMAGES[1]))],
    [Document("c", (SMALL.images["und"][0], words(12, 13))), Document("d", (words(7, 8),))],
]


@jax.jit
def same_twins(params):
    """With the images' weights those of the text."""
    text = params["language_model"]
    return params | {"image_twin": {"layers": text["layers"], "norm": text["norm"]}}


def states(system, params, batch):
    return system.states(params, system.embed(params, batch), batch)


def test_without_images_it_is_the_language_model():
    batch = SMALL.batch([[Document("t", (words(8, 9, 10, 11),))]])
    llama = SMALL.system.language_model
    x = SMALL.system.embed(PARAMS, batch)
    seen = packed_intervals(batch.segment, batch.kind, batch.image, ())
    p = {"params": PARAMS["language_model"]}
    want, _ = llama.apply(p, x, batch.position, *seen)
    found = states(SMALL.system, PARAMS, batch.replace(images={}))
    np.testing.assert_array_equal(found, want)
    at = np.asarray(batch.kind) == Kind.TEXT
    found = states(SMALL.system, PARAMS, batch)  # with slots that are empty
    np.testing.assert_allclose(np.asarray(found)[at], np.asarray(want)[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, SHALLOW], ids=["deep", "shallow"])
def test_twins_of_the_same_weights_are_the_dense_decoder(config):
    system, dense = LMFusion(config), Transfusion(test_transfusion.CONFIG)
    params = same_twins(PARAMS)
    batch = SMALL.batch(ROWS)
    plain = {name: p for name, p in params.items() if name != "image_twin"}
    want = np.asarray(states(dense, plain, batch))
    found = np.asarray(states(system, params, batch))
    at = np.asarray(batch.kind) != Kind.PAD
    np.testing.assert_allclose(found[at], want[at], atol=1e-5 * np.abs(want).max())


def slowly(config, params, batch):
    """Both weights at every position, and of the two what its modality has."""
    text, image = params["language_model"], params["image_twin"]
    rope = rope_tables(batch.position, config.text.head_dim, config.text.rope_theta)
    seen = packed_intervals(batch.segment, batch.kind, batch.image, (Kind.GEN,))
    here = (batch.kind == Kind.GEN)[..., None]
    x = LMFusion(config).embed(params, batch)
    layer = Layer(config.text)
    deep = config.separation == "deep"

    def either(mine, i, method, *args):
        run = lambda group, *a: layer.apply({"params": group}, *a, method=method)  # noqa: E731
        at = lambda group: jax.tree.map(lambda p: p[i], group["layers"])  # noqa: E731
        of_text = run(at(text), *args)
        of_images = run(at(image) if mine else at(text), *args)
        pick = lambda a, b: jnp.where(here.reshape(*here.shape[:2], *[1] * (a.ndim - 2)), b, a)  # noqa: E731
        return jax.tree.map(pick, of_text, of_images)

    for i in range(config.text.num_hidden_layers):
        q, k, v = either(deep, i, "before", x, rope, None)
        heads, _ = attend(q, k, v, None, *seen)
        x = either(deep, i, "after", x, heads, None)
        x = either(True, i, "feed", x, None)
    unit = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + config.text.rms_norm_eps)
    return unit * jnp.where(here, image["norm"]["scale"], text["norm"]["scale"])


@pytest.mark.parametrize("config", [CONFIG, SHALLOW], ids=["deep", "shallow"])
def test_each_position_goes_through_its_own_weights(config):
    batch = SMALL.batch(ROWS)
    found = np.asarray(states(LMFusion(config), PARAMS, batch))
    want = np.asarray(slowly(config, PARAMS, batch))
    at = np.asarray(batch.kind) != Kind.PAD
    np.testing.assert_allclose(found[at], want[at], atol=1e-5 * np.abs(want).max())


def test_text_before_the_first_image_does_not_know_the_twin():
    batch = SMALL.batch(ROWS)
    moved = PARAMS | {"image_twin": jax.tree.map(lambda x: x + 0.1, PARAMS["image_twin"])}
    change = np.asarray(states(SMALL.system, moved, batch) - states(SMALL.system, PARAMS, batch))
    change = np.abs(change).max(axis=-1)
    images = np.asarray(batch.kind[0]) == Kind.GEN
    first, last = np.flatnonzero(images)[[0, CONFIG.num_tokens - 1]]
    assert (change[0, :first] == 0).all()
    assert (change[0][images] > 1e-4).all()
    assert change[0, last + 1 : last + 3].min() > 1e-6  # what stands behind sees it


@pytest.mark.parametrize("config", [CONFIG, SHALLOW], ids=["deep", "shallow"])
def test_a_prompt_without_images_is_the_language_models_work_alone(config):
    """Both twins were worked at every place of it, to the language model's own answer."""
    system, cache = LMFusion(config), SMALL.system.init_cache(1, 8)
    params = system.for_decoding(PARAMS)
    x = jax.random.normal(jax.random.key(0), (1, 8, config.text.hidden_size))
    at = jnp.arange(8, dtype=jnp.int32)[None]
    seen = at, jnp.zeros_like(at), at + 1
    decode = jax.jit(lambda kind: system.decode(params, x, *seen, cache, kind))
    alone = jax.jit(lambda: Transfusion.decode(system, params, x, *seen, cache))
    base, kept = alone()

    text = jnp.full((1, 8), int(Kind.TEXT))
    found = decode(text)
    jax.tree.map(np.testing.assert_array_equal, found, (base, kept))
    drawn, _ = decode(text.at[0, 3:7].set(int(Kind.GEN)))
    assert np.abs(np.asarray(drawn - base))[0, 3:].max() > 1e-3

    def products(of) -> int:
        return str(of).count("= dot_general[")

    (program,) = jax.make_jaxpr(decode)(text).jaxpr.eqns
    (choice,) = (e for e in program.params["jaxpr"].eqns if e.primitive.name == "cond")
    of_text, of_both = (products(branch) for branch in choice.params["branches"])
    assert of_text == products(jax.make_jaxpr(alone)()) < of_both
    assert products(program.params["jaxpr"]) == of_text + of_both


def test_a_fresh_twin_is_a_copy_and_shallow_ones_hold_less():
    params = LMFusion(CONFIG).init(jax.random.key(0))
    text = params["language_model"]
    for part in ("layers", "norm"):
        jax.tree.map(np.testing.assert_array_equal, params["image_twin"][part], text[part])
    shallow = tree.flatten(init_shapes(LMFusion(SHALLOW))["image_twin"])
    assert {path.split("/")[1] for path in shallow if path.startswith("layers")} == {
        "mlp", "post_attention_layernorm",
    }  # fmt: skip


def test_published_counts():
    """8.03B of text, 6.98B of its twin, about 0.27B of image layers: 15.3B."""
    (config,) = SIZES.values()
    shapes = init_shapes(LMFusion(config))
    count = {
        group: sum(int(np.prod(box.value.shape)) for box in tree.flatten(boxes).values())
        for group, boxes in shapes.items()
    }
    assert count["language_model"] == 8_030_261_248
    assert count["image_twin"] == 32 * 218_112_000 + 4096
    assert 0.25e9 < count["image_layers"] < 0.29e9


def test_wrong_configs_are_told():
    with pytest.raises(UserError, match=r"model\.separation: found 'none'; expected one of"):
        dataclasses.replace(CONFIG, separation="none")
    with pytest.raises(UserError, match=r"model\.text: found dropout"):
        dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, dropout=0.1))


def test_the_twin_begins_as_the_imported_language_model(tmp_path):
    """As a config says it, `:GROUP`; a group that holds something else is refused."""
    trainer = SMALL.trainer(SMALL.stage, MeshConfig(), jax.devices()[:1])
    imported = {"language_model": PARAMS["language_model"]}
    save_weights(tmp_path / "llama.safetensors", imported, jnp.float32)
    llama = str(tmp_path / "llama.safetensors")
    config = load("configs/lmfusion.py").unlock()
    config.init = {"language_model": llama, "image_twin": ":language_model"}
    run = resolve(config)
    assert [*run.init] == ["image_twin", "language_model"], "in no order to go by"
    params = initial_params(run, trainer, None, tmp_path)
    for part in ("layers", "norm"):
        want = PARAMS["language_model"][part]
        jax.tree.map(np.testing.assert_array_equal, params["image_twin"][part], want)
    wrong = dataclasses.replace(run, init={"image_twin": ":autoencoder"})
    with pytest.raises(UserError, match=r"init\.image_twin: found :autoencoder, which does not"):
        initial_params(wrong, trainer, None, tmp_path)


def test_a_base_that_works_otherwise_is_not_taken_for_the_same(tmp_path):
    """Weights of other heads, rotary positions or norms fit, and were frozen as they were."""
    other = dataclasses.replace(CONFIG.text, rope_theta=500000.0)
    write_run(tmp_path / "base", "transfusion", dataclasses.replace(
        test_transfusion.CONFIG, text=other, guidance=1.0))  # fmt: skip
    trainer = SMALL.trainer(SMALL.stage, MeshConfig(), jax.devices()[:1])
    run = dataclasses.replace(
        resolve(load("configs/lmfusion.py")), model=CONFIG,
        init={"language_model": str(tmp_path / "base")},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"rope_theta 500000.0; expected 10000.0, as in model"):
        initial_params(run, trainer, None, tmp_path)
    same = dataclasses.replace(CONFIG, text=dataclasses.replace(other, dropout=0.0))
    initial_params(dataclasses.replace(run, model=same), trainer, None, tmp_path)
