"""The decoder against transformers', its cache, its packing, its products."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.core import meta

from tests.walk import product_flops
from unijax.core import axes
from unijax.core.tree import flatten, unflatten
from unijax.models.llama import Llama, LlamaConfig, init_cache
from unijax.nn.stack import unstack
from unijax.ops.attention import packed_intervals
from unijax.ops.rope import RopeScaling

SMALL = LlamaConfig(96, 32, 48, 3, 4, 2, 8)
GROUPINGS = [(4, 4, 8), (4, 2, 8), (4, 1, 16)]  # heads, key/value heads, head dim


@functools.partial(jax.jit, static_argnums=0)
def draw(model, key):
    return model.init(jax.random.key(key), jnp.zeros((1, 2), jnp.int32), method="init_all")


def shapes(model):
    """The parameters of a model without making them."""
    return meta.unbox(jax.eval_shape(draw, model, 0))


def init(config, key=0, scale=8.0, **fields):
    """A model and weights large enough that every part of a layer shows in the output."""
    model = Llama(config, **fields)
    params = meta.unbox(draw(model, key))["params"]
    params = {n: p if n.endswith("scale") else p * scale for n, p in flatten(params).items()}
    return model, {"params": unflatten(params)}


def documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SMALL.vocab_size, n).astype(np.int32) for n in lengths]


def pack(rows, length):
    """Tokens, positions and documents `[B, length]` of rows, each a list of documents."""
    tokens, position, segment = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, docs in enumerate(rows):
        at = 0
        for i, d in enumerate(docs):
            here = slice(at, at + len(d))
            tokens[row, here], position[row, here] = d, np.arange(len(d))
            segment[row, here] = i + 1
            at += len(d)
    return tokens, position, segment


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens, position, segment):
    """Hidden states `[B, T, D]`."""
    intervals = packed_intervals(segment, (segment > 0).astype(jnp.int32), segment * 0)
    x = model.apply(params, tokens, method="embed")
    return model.apply(params, x, position, *intervals)[0]


def assert_close(ours, theirs, tolerance=1e-5):
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-6,
)  # fmt: skip
# More turns in the original length than `high`, fewer than `low`, and in between.
SCALING = {
    "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
SECTIONS = (1, 2, 1)


def llama(theta=500.0, rope=None, **shape):
    rope = {"rope_type": "default"} if rope is None else {"rope_type": "llama3", **rope}
    config = transformers.LlamaConfig(
        **SHAPE | shape, rope_parameters=rope | {"rope_theta": theta}, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def qwen2(tied):
    shape = {k: v for k, v in SHAPE.items() if k != "head_dim"}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = transformers.Qwen2Config(
        **shape, rope_parameters=rope, initializer_range=0.3, tie_word_embeddings=tied
    )
    return transformers.Qwen2ForCausalLM(config)


def chameleon(post):
    shape = {k: v for k, v in SHAPE.items() if k != "head_dim"}
    vq = dict(embed_dim=4, num_embeddings=8, latent_channels=4, resolution=16, base_channels=32,
              channel_multiplier=[1, 1], num_res_blocks=1)  # fmt: skip
    config = transformers.ChameleonConfig(
        **shape, swin_norm=post, vq_config=vq, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, vocabulary_map={"<image>": 5},
    )  # fmt: skip
    return transformers.ChameleonForConditionalGeneration(config)


def ours(**options):
    return LlamaConfig(**SHAPE | options)


REFERENCES = {
    **{
        f"llama of {heads} heads, {kv_heads} of keys": (
            functools.partial(
                llama, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim
            ),
            ours(
                num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
                rope_theta=500.0,
            ),
        )
        for heads, kv_heads, head_dim in GROUPINGS
    },
    "llama 3.1": (
        functools.partial(llama, theta=20.0, rope=SCALING),
        ours(rope_theta=20.0, rope_scaling=RopeScaling(**SCALING)),
    ),
    "qwen2": (functools.partial(qwen2, False), ours(qkv_bias=True)),
    "qwen2, tied": (functools.partial(qwen2, True), ours(qkv_bias=True, tie_word_embeddings=True)),
    "chameleon 7B": (functools.partial(chameleon, False), ours(qk_norm="layer_norm")),
    "chameleon 34B": (
        functools.partial(chameleon, True),
        ours(qk_norm="layer_norm", norm_order="post"),
    ),
}  # fmt: skip


@functools.cache
def reference(name):
    """Their model with weights that show, and ours with the same."""
    make, config = REFERENCES[name]
    torch.manual_seed(0)
    theirs = make().eval()
    for parameter, p in theirs.named_parameters():
        if "norm" in parameter or parameter.endswith("bias"):
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return theirs, config, from_transformers(theirs)


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_transformers(name):
    theirs, config, params = reference(name)
    ids = documents([11, 11])
    with torch.no_grad():
        want = theirs.model(torch.tensor(np.stack(ids))).last_hidden_state
        # Chameleon's own logits of image ids are masked.
        want_logits = theirs.lm_head(want)
    model = Llama(config)
    assert jax.tree.map(jnp.shape, {"params": params}) == jax.tree.map(jnp.shape, shapes(model))
    hidden = forward(model, {"params": params}, *pack([[d] for d in ids], 11))
    assert_close(hidden, want)
    assert_close(model.apply({"params": params}, hidden, method="logits"), want_logits, 1e-4)


@pytest.mark.parametrize("name", [n for n in REFERENCES if not n.endswith("of keys")])
def test_decoding_equals_transformers(name):
    """A prompt at once, then one token at a time."""
    theirs, config, params = reference(name)
    ids = np.stack(documents([9, 9]))
    with torch.no_grad():
        want = theirs.model(torch.tensor(ids)).last_hidden_state
    model, params = Llama(config, unrolled=True), {"params": unstack(params, "layers")}
    start, cache = np.zeros(2, np.int32), init_cache(config, 2, 9, "float32")
    got, cache = decode(model, params, ids[:, :5], start, cache)
    found = [got]
    for at in range(5, 9):
        got, cache = decode(model, params, ids[:, at : at + 1], start, cache)
        found.append(got)
    assert_close(np.concatenate(found, axis=1), want)


def from_transformers(model):
    """Their state as our tree: kernels transposed, layers stacked, no name left over."""
    flat, layers = {}, {}
    tied = getattr(model.config, "tie_word_embeddings", False)
    for name, p in model.state_dict().items():
        path = name.removeprefix("model.").replace(".", "/")
        if path.startswith("vqmodel/") or (tied and path.startswith("lm_head")):
            continue
        path, _, kind = path.rpartition("/")
        names = {"bias": "bias"} | {"weight": "kernel"}
        if "norm" in path:
            names["weight"] = "scale"
        elif "embed" in path:
            names["weight"] = "embedding"
        leaf = names[kind]
        value = p.numpy().T if leaf == "kernel" else p.numpy()
        if found := re.fullmatch(r"layers/(\d+)/(.*)", path):
            layers.setdefault(f"layers/{found[2]}/{leaf}", {})[int(found[1])] = value
        else:
            flat[f"{path}/{leaf}"] = jnp.asarray(value)
    for path, parts in layers.items():
        flat[path] = jnp.stack([parts[i] for i in range(len(parts))])
    return unflatten(flat)


def test_positions_of_several_axes_equal_transformers():
    """Qwen2.5-VL's, of a text, a picture of 2 x 3 patches, and more text."""
    torch.manual_seed(0)
    shape = {k: v for k, v in SHAPE.items() if k != "head_dim"}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(SECTIONS)}
    text = transformers.models.qwen2_5_vl.Qwen2_5_VLTextConfig(
        **shape, rope_parameters=rope, initializer_range=0.3, use_sliding_window=False
    )
    theirs = transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLTextModel(text).eval()
    rows, columns = np.divmod(np.arange(6), 3)
    picture = np.stack([np.full(6, 4), 4 + rows, 4 + columns])
    axes_of = np.concatenate(
        [np.tile(np.arange(4), (3, 1)), picture, np.tile(np.arange(7, 9), (3, 1))], axis=1
    )
    (ids,) = documents([12])
    with torch.no_grad():
        want = theirs(
            inputs_embeds=theirs.embed_tokens(torch.tensor(ids[None])),
            position_ids=torch.tensor(axes_of[:, None]),
        ).last_hidden_state
    model = Llama(ours(qkv_bias=True, mrope_section=SECTIONS))
    params = {"params": from_transformers(theirs)}
    tokens, _, segment = pack([[ids]], 12)
    hidden = forward(model, params, tokens, jnp.asarray(axes_of.T[None], jnp.int32), segment)
    assert_close(hidden, want)
    # Where all axes agree they are one.
    one = pack([[ids]], 12)
    several = np.repeat(one[1][..., None], 3, axis=2)
    np.testing.assert_array_equal(
        forward(model, params, *one), forward(model, params, tokens, several, segment)
    )


def test_norms_of_queries_and_keys_after_rotation(monkeypatch):
    """MetaQuery's connector: length one after rotary positions, times sqrt(head dim) and a scale.

    Qwen2 of transformers, whose rotation is followed by that here.
    """
    module = transformers.models.qwen2.modeling_qwen2
    rotate, scales = module.apply_rotary_pos_emb, torch.rand(6, 8) + 0.5

    def rotate_and_normalise(q, k, *tables):
        q, k = (8**0.5 * torch.nn.functional.normalize(x, dim=-1) for x in rotate(q, k, *tables))
        return q * scales[:4, None], k * scales[4:, None]

    monkeypatch.setattr(module, "apply_rotary_pos_emb", rotate_and_normalise)
    theirs, _, params = reference("qwen2")
    (ids,) = documents([7])
    with torch.no_grad():
        want = theirs.model(torch.tensor(ids[None])).last_hidden_state
    flat = flatten(params)
    for name, part in (("q_norm", scales[:4]), ("k_norm", scales[4:])):
        flat[f"layers/self_attn/{name}/scale"] = jnp.tile(part.numpy(), (3, 1, 1))
    model = Llama(ours(qkv_bias=True, qk_norm="rms_norm"))
    assert_close(forward(model, {"params": unflatten(flat)}, *pack([[ids]], 7)), want)


DROPS = dataclasses.replace(SMALL, dropout=0.3)


@functools.partial(jax.jit, static_argnums=0)
def drop(model, params, packed, uid, key):
    """Hidden states of a training step."""
    tokens, position, segment = packed
    intervals = packed_intervals(segment, (segment > 0).astype(jnp.int32), segment * 0)
    x = model.apply(params, tokens, method="embed")
    rngs = {"dropout": key}
    return model.apply(params, x, position, *intervals, document=uid, rngs=rngs)[0]


def test_what_is_dropped_of_a_document_does_not_depend_on_its_row():
    model, params = init(DROPS)
    docs = dict(zip("abc", documents([7, 4, 9])))
    uids = dict(zip("abc", (3_000_000_000, 17, 4)))

    def results(*rows, remat="none", key=5):
        places = {}
        uid = np.zeros((len(rows), 24), np.uint32)
        for r, row in enumerate(rows):
            at = 0
            for name in row:
                uid[r, at : at + len(docs[name])] = uids[name]
                places[name] = [(r, at + t) for t in range(len(docs[name]))]
                at += len(docs[name])
        packed = pack([[docs[name] for name in row] for row in rows], 24)
        hidden = drop(model.clone(remat=remat), params, packed, uid, jax.random.key(key))
        at = tuple(np.array([place for name in "abc" for place in places[name]]).T)
        return hidden[at]

    want = results("a", "b", "c")
    for rows in (("abc", "", ""), ("ca", "b", ""), ("cb", "", "a")):
        assert_close(results(*rows), want)
    assert_close(results("abc", "", "", remat="full"), want, 1e-6)
    plain = forward(Llama(SMALL), params, *pack([[docs["a"]]], 7))[0]
    assert np.abs(want[:7] - plain).max() > 0.1
    assert np.abs(results("a", "b", "c", key=6) - want).max() > 0.1
    uids["b"] = 18
    assert np.abs(results("a", "b", "c")[7:11] - want[7:11]).max() > 0.1


def test_nothing_is_dropped_without_an_rng():
    _, params = init(DROPS)
    packed = pack([documents([7])], 8)
    want = forward(Llama(SMALL), params, *packed)
    np.testing.assert_array_equal(forward(Llama(DROPS), params, *packed), want)


def test_dropout_without_documents_is_told():
    model, params = init(DROPS)
    x, ids = jnp.zeros((1, 4, 32)), jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(AssertionError, match=r"attention_dropout.*without a place"):
        model.apply(params, x, ids, ids, ids, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("prompts", [(5, 5), (3, 5)])
def test_decoding_with_a_cache_equals_the_whole_row(prompts):
    """Prompts are written at once and end together, then one token at a time."""
    model, params = init(SMALL)
    total, space, width = 9, 12, max(prompts)
    docs = documents([total, total])
    want = forward(model, params, *pack([[d] for d in docs], total))
    start = np.array([width - n for n in prompts], np.int32)
    ids = np.stack([np.pad(d, (gap, 0))[:total] for d, gap in zip(docs, start)])
    model, params = Llama(SMALL, unrolled=True), {"params": unstack(params["params"], "layers")}
    cache = init_cache(SMALL, 2, space, "float32")
    got, cache = decode(model, params, ids[:, :width], start, cache)
    assert [c.shape for c in cache.k] == [(2, 2, space, 8)] * 3
    steps = [got]
    for t in range(width, total):
        got, cache = decode(model, params, ids[:, t : t + 1], start, cache)
        steps.append(got)
    assert cache.length == total
    got = np.concatenate(steps, axis=1)
    for row, gap in enumerate(start):
        assert_close(got[row, gap:], want[row, : total - gap])


@functools.partial(jax.jit, static_argnums=0)
def decode(model, params, tokens, start, cache):
    """A call in which every token sees its row from `start` up to itself."""
    x = model.apply(params, tokens, method="embed")
    at = jnp.broadcast_to(cache.length + jnp.arange(tokens.shape[1]), tokens.shape)
    first = jnp.broadcast_to(start[:, None], tokens.shape)
    return model.apply(
        params, x, jnp.maximum(at - first, 0), first, jnp.maximum(at + 1, first), cache
    )


def test_a_cache_of_bfloat16_is_close():
    model, params = init(SMALL)
    (ids,) = documents([6])
    want = forward(model, params, *pack([[ids]], 6))
    model, params = Llama(SMALL, unrolled=True), {"params": unstack(params["params"], "layers")}
    cache = init_cache(SMALL, 1, 6, jnp.bfloat16)
    got, cache = decode(model, params, ids[None], np.zeros(1, np.int32), cache)
    assert (cache.k[0].dtype, got.dtype) == (jnp.bfloat16, jnp.float32)
    assert_close(got, want, 2**-5)


def test_unrolled_equals_scanned():
    model, params = init(SMALL)
    (ids,) = documents([6])
    want = forward(model, params, *pack([[ids]], 8))
    apart = {"params": unstack(params["params"], "layers")}
    got = forward(Llama(SMALL, unrolled=True), apart, *pack([[ids]], 8))
    assert_close(got[:, :6], want[:, :6], 1e-6)


def test_a_document_does_not_depend_on_its_row():
    """Neither its hidden states nor the gradient of a function of them, in any packing."""
    model, params = init(SMALL)
    docs = dict(zip("abc", documents([7, 4, 9])))
    direction = jax.random.normal(jax.random.key(1), (7 + 4 + 9, 32))

    @jax.jit
    def grad(params, packed, at):
        def loss(params):
            hidden = forward(model, params, *packed)[at]
            return jnp.vdot(jnp.tanh(hidden), direction), hidden

        return jax.grad(loss, has_aux=True)(params)

    def results(*rows):
        """Of the rows named; the hidden states of a, then of b, then of c."""
        places = {
            name: [(r, sum(len(docs[d]) for d in row[:i]) + t) for t in range(len(docs[name]))]
            for r, row in enumerate(rows)
            for i, name in enumerate(row)
        }
        at = tuple(np.array([place for name in "abc" for place in places[name]]).T)
        return grad(params, pack([[docs[name] for name in row] for row in rows], 24), at)

    grads, hidden = results("a", "b", "c")
    for rows in (("abc", "", ""), ("ca", "", "b"), ("cb", "a", "")):
        other_grads, other = results(*rows)
        assert_close(other, hidden)
        jax.tree.map(assert_close, other_grads, grads)


def test_remat_changes_no_gradient_and_no_name():
    packed = pack([documents([10])], 12)

    _, params = init(SMALL)

    def grads(remat):
        model = Llama(SMALL, remat=remat)
        assert jax.tree.structure(shapes(model)) == jax.tree.structure(params)
        loss = lambda p: jnp.sum(jnp.sin(forward(model, p, *packed)[:, :10]))  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    want = grads("none")
    for remat in ("dots", "full"):
        jax.tree.map(lambda g, w: assert_close(g, w, 1e-6), grads(remat), want)


def test_parameters_have_names_dtypes_and_deviation():
    config = dataclasses.replace(SMALL, hidden_size=128, intermediate_size=96)
    model = Llama(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    params = draw(model, 0)["params"]
    boxed = jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
    assert boxed
    for path, box in boxed:
        assert len(box.names) == box.value.ndim, path
        assert axes.ALL.issuperset(box.names), path
        assert box.value.dtype == jnp.bfloat16, path
    flat = flatten(meta.unbox(params))
    assert set(flat) == {
        "embed_tokens/embedding", "norm/scale", "lm_head/kernel",
        "layers/input_layernorm/scale", "layers/post_attention_layernorm/scale",
        *(f"layers/self_attn/{n}_proj/kernel" for n in "qkvo"),
        *(f"layers/mlp/{n}_proj/kernel" for n in ("gate", "up", "down")),
    }  # fmt: skip
    for name, p in flat.items():
        if name.endswith("scale"):
            assert (p == 1).all()
        else:
            np.testing.assert_allclose(np.std(np.asarray(p, np.float32)), 0.02, rtol=0.05)
    layers = np.asarray(flat["layers/self_attn/q_proj/kernel"], np.float32)
    assert not np.array_equal(layers[0], layers[1])  # each layer draws its own


def test_dtypes_of_outputs():
    model = Llama(SMALL, dtype=jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)

    def run(params, ids):
        x = model.apply(params, ids, method="embed")
        hidden, cache = model.apply(params, x, ids, ids, ids)
        return x, hidden, cache, model.apply(params, hidden, method="logits")

    x, hidden, cache, logits = jax.eval_shape(run, shapes(model), ids)
    assert (x.dtype, hidden.dtype, cache) == (jnp.bfloat16, jnp.bfloat16, None)
    assert (logits.dtype, logits.shape) == (jnp.float32, (1, 4, 96))


def test_flops_are_those_of_the_products_in_the_program():
    model, params = init(SMALL)
    b, t = 2, 5
    x, ids = jnp.zeros((b, t, 32)), jnp.zeros((b, t), jnp.int32)
    program = jax.make_jaxpr(model.apply)(params, x, ids, ids, ids + t)
    want = b * t * SMALL.flops_per_token() + b * t * t * SMALL.flops_per_pair()
    assert product_flops(program.jaxpr) == want
