"""The decoder against transformers', its cache, its packing, its counts."""

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

from unijax.core import axes
from unijax.core.errors import UserError
from unijax.core.tree import flatten, unflatten
from unijax.models.llama import SIZES, Llama, LlamaConfig, init_cache
from unijax.nn.stack import unstack
from unijax.ops.attention import packed_intervals

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


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), GROUPINGS)
def test_equals_transformers(heads, kv_heads, head_dim):
    shape = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        rms_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **shape, rope_parameters=rope, initializer_range=0.3, tie_word_embeddings=False
        )
    ).eval()
    for name, p in theirs.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    model = Llama(LlamaConfig(**shape, rope_theta=500.0))
    params = {"params": from_transformers(theirs)}

    ids = documents([11, 11])
    batch = torch.tensor(np.stack(ids))
    with torch.no_grad():
        want = theirs(batch, output_hidden_states=True)
    hidden = forward(model, params, *pack([[d] for d in ids], 11))
    assert_close(hidden, want.hidden_states[-1])
    assert_close(model.apply(params, hidden, method="logits"), want.logits, 1e-4)


def from_transformers(model):
    """Their state as our tree: kernels transposed, layers stacked, no name left over."""
    flat, layers = {}, {}
    for name, p in model.state_dict().items():
        path = name.removeprefix("model.").removesuffix(".weight").replace(".", "/")
        leaf = "scale" if "norm" in path else "embedding" if "embed" in path else "kernel"
        value = p.numpy().T if leaf == "kernel" else p.numpy()
        if found := re.fullmatch(r"layers/(\d+)/(.*)", path):
            layers.setdefault(f"layers/{found[2]}/{leaf}", {})[int(found[1])] = value
        else:
            flat[f"{path}/{leaf}"] = jnp.asarray(value)
    for path, parts in layers.items():
        flat[path] = jnp.stack([parts[i] for i in range(len(parts))])
    return unflatten(flat)


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


@pytest.mark.parametrize(
    ("size", "body", "head"),
    [
        ("deepseek_1b", 1_442_940_928, 209_715_200),
        ("deepseek_7b", 6_490_935_296, 419_430_400),
        ("llama_test", None, None),
    ],
)
def test_counts(size, body, head):
    """By arithmetic, by the shapes, and as the specification has them."""
    config = SIZES[size]
    counts = config.count_parameters()
    count = lambda *names: sum(  # noqa: E731
        p.size
        for path, p in flatten(shapes(Llama(config))["params"]).items()
        if path.split("/")[0] in names
    )
    assert count("embed_tokens") == counts["embed_tokens"]
    assert count("layers", "norm") == counts["layers"]
    assert count("lm_head") == counts["lm_head"]
    if body:
        assert counts["embed_tokens"] + counts["layers"] == body
        assert counts["lm_head"] == head


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


def product_flops(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            k = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2 * k * eqn.outvars[0].aval.size
        inner = sum(product_flops(x.jaxpr) for x in eqn.params.values() if hasattr(x, "jaxpr"))
        total += eqn.params.get("length", 1) * inner
    return total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: found 3; expected a divisor of"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "num_attention_heads: found 5;"),
        ({"head_dim": 7}, "head_dim: found 7; expected an even number"),
    ],
)
def test_sizes_that_do_not_divide(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)
