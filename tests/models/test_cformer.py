"""Emu's CFormer against transformers' T5 decoder, with a memory of another width."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from tests.walk import product_flops
from tests.weights import distance, randomise
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.interop.cformer_part import entries
from unijax.interop.table import Table, foreign_shapes, read_leaf
from unijax.models.cformer import SIZES, CFormer, CFormerConfig, buckets

SMALL, WIDTH, OUT = SIZES["cformer_test"], 20, 28
# 32 queries, so that distances reach the wide buckets.
LONG = dataclasses.replace(SMALL, num_queries=32, num_buckets=8, max_distance=16)


def reference(cfg: CFormerConfig, width: int, out: int) -> torch.nn.Module:
    """T5's decoder as Emu has it: queries in, the products of keys and values from the memory."""
    stack = T5Stack(
        T5Config(
            vocab_size=1, d_model=cfg.hidden_size, d_kv=cfg.head_dim, d_ff=cfg.intermediate_size,
            num_layers=cfg.num_hidden_layers, num_heads=cfg.num_attention_heads,
            relative_attention_num_buckets=cfg.num_buckets,
            relative_attention_max_distance=cfg.max_distance, dropout_rate=0.0,
            layer_norm_epsilon=cfg.rms_norm_eps, feed_forward_proj="relu", is_decoder=True,
            use_cache=False, attn_implementation="eager",
        )
    )  # fmt: skip
    inner = cfg.num_attention_heads * cfg.head_dim
    for block in stack.block:
        attention = block.layer[1].EncDecAttention
        attention.k = torch.nn.Linear(width, inner, bias=False)
        attention.v = torch.nn.Linear(width, inner, bias=False)
    model = torch.nn.Module()
    model.causal_tokens = torch.nn.Parameter(torch.zeros(1, cfg.num_queries, cfg.hidden_size))
    del stack.embed_tokens
    model.cformer = stack
    model.projection = torch.nn.Linear(cfg.hidden_size, out)
    return model


class Tensors:
    """A state dict as a source of tensors."""

    where = "T5"

    def __init__(self, model):
        self._state = {n: p.detach().numpy() for n, p in model.state_dict().items()}
        self.tensors = self._state

    def read(self, name):
        return self._state[name]


def theirs_of(model, cfg, memory):
    with torch.no_grad():
        hidden = model.cformer(
            inputs_embeds=model.causal_tokens.expand(len(memory), -1, -1),
            encoder_hidden_states=torch.from_numpy(np.array(memory)),
        ).last_hidden_state
        return model.projection(hidden)


def table(cfg):
    return Table(tuple(entries("", "")))


@functools.cache
def pair(cfg: CFormerConfig):
    torch.manual_seed(0)
    theirs = randomise(reference(cfg, WIDTH, OUT)).eval()
    model = CFormer(cfg, OUT)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, WIDTH)))["params"]
    source = Tensors(theirs)
    flat = {
        p: jnp.asarray(read_leaf(table(cfg), source, p, x.value.shape))
        for p, x in tree.flatten(shapes).items()
    }
    return theirs, model, {"params": tree.unflatten(flat)}


def memory() -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).standard_normal((2, 7, WIDTH), np.float32))


@pytest.mark.parametrize("cfg", [SMALL, LONG], ids=["small", "long"])
def test_it_equals_t5s_decoder(cfg):
    theirs, model, params = pair(cfg)
    found = jax.jit(model.apply)(params, memory())
    assert distance(found, theirs_of(theirs, cfg, memory())) <= 1e-5


def test_distances_fall_into_t5s_buckets():
    attention = reference(SIZES["emu_cformer"], WIDTH, OUT).cformer.block[0].layer[0].SelfAttention
    for count, most, n in ((32, 128, 140), (8, 16, 40), (32, 128, 32)):
        back = torch.arange(n)[None] - torch.arange(n)[:, None]
        want = attention._relative_position_bucket(
            back, bidirectional=False, num_buckets=count, max_distance=most
        )
        np.testing.assert_array_equal(buckets(n, count, most), want)


def test_a_query_is_blind_to_those_behind_it():
    _, model, params = pair(SMALL)
    run = jax.jit(model.apply)
    queries = params["params"]["queries"]
    moved = {"params": params["params"] | {"queries": queries.at[2].add(1.0)}}
    change = np.abs(np.asarray(run(moved, memory()) - run(params, memory()))).max(axis=(0, 2))
    assert change[:2].max() == 0
    assert change[2:].min() > 1e-3


def test_the_published_one_has_the_published_number():
    """125,071,488 in the decoder; queries and the projection to 5,120 beside it."""
    cfg = SIZES["emu_cformer"]
    model = CFormer(cfg, 5120)
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 1408)))["params"]
    shapes = {p: x.value.shape for p, x in tree.flatten(boxed).items()}
    sizes = {p: int(np.prod(s)) for p, s in shapes.items()}
    beside = {p for p in sizes if p.startswith(("queries", "projection"))}
    assert sum(n for p, n in sizes.items() if p not in beside) == 125_071_488
    assert sum(sizes.values()) == 125_071_488 + 32 * 768 + (768 + 1) * 5120
    with torch.device("meta"):
        theirs = reference(cfg, 1408, 5120)
    expected = {n: tuple(p.shape) for n, p in theirs.state_dict().items()}
    assert foreign_shapes(table(cfg), shapes) == expected


def test_a_block_at_full_width_equals_t5s():
    cfg = dataclasses.replace(SIZES["emu_cformer"], num_hidden_layers=1)
    theirs, model, params = pair(cfg)
    found = jax.jit(model.apply)(params, memory())
    assert distance(found, theirs_of(theirs, cfg, memory())) <= 1e-5


def test_flops_are_those_of_the_program():
    _, model, params = pair(SMALL)
    found = product_flops(jax.make_jaxpr(model.apply)(params, memory()).jaxpr)
    assert found == 2 * SMALL.flops_per_image(7, WIDTH, OUT)


@pytest.mark.parametrize("change", [{"num_buckets": 7}, {"max_distance": 8}])
def test_buckets_that_cannot_be_are_refused(change):
    with pytest.raises(UserError, match="expected an even number, and a larger one"):
        dataclasses.replace(SMALL, **change)
