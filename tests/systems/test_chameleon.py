"""Chameleon: what every decoder must do, and transformers' Chameleon on the same weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import ChameleonConfig as HFConfig
from transformers import ChameleonForConditionalGeneration

from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, random_params, words
from tests.systems.system_suite import LONGEST
from unijax.core.errors import UserError
from unijax.data.document import Document
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.chameleon import RECIPE, SIZES, Chameleon, ChameleonConfig
from unijax.train.stage import Rule

VQ = VQConfig(
    image_size=4, base_channels=32, channel_multiplier=(1, 1), num_res_blocks=1, latent_channels=8,
    embed_dim=4, num_embeddings=24,
)  # fmt: skip
TEXT = LlamaConfig(72, 32, 48, 2, 4, 2, 8, 1e-5, qk_norm="layer_norm")
SYSTEM = Chameleon(ChameleonConfig(TEXT, VQ, first_code=48, head_chunk=16))
POST = dataclasses.replace(TEXT, norm_order="post")


class TestChameleon(DecoderSuite):
    small = SmallRows(SYSTEM, rules=(Rule("vqmodel/", frozen=True),))
    recipe = RECIPE
    long = LONGEST | {"test_greedy_codes_are_those_of_teacher_forcing"}
    edges = 0.03


SMALL = TestChameleon.small


def theirs_with(system: Chameleon, params) -> ChameleonForConditionalGeneration:
    """transformers' model with our weights."""
    text = system.config.text
    config = HFConfig(
        vocab_size=text.vocab_size, hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size, num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads, rms_norm_eps=text.rms_norm_eps,
        swin_norm=text.norm_order == "post", attn_implementation="eager",
        max_position_embeddings=64, tie_word_embeddings=False,
        vq_config={"resolution": 32, "base_channels": 32, "channel_multiplier": [1, 1],
                   "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 8,
                   "num_embeddings": 24, "attn_resolutions": None},
        vocabulary_map={"<image>": 3},
    )  # fmt: skip
    model = ChameleonForConditionalGeneration(config).eval()
    ours = params["language_model"]
    state = model.state_dict()

    def put(name, value):
        assert state[name].shape == value.shape, (name, state[name].shape, value.shape)
        state[name] = torch.from_numpy(np.array(value))

    put("model.embed_tokens.weight", ours["embed_tokens"]["embedding"])
    put("model.norm.weight", ours["norm"]["scale"])
    put("lm_head.weight", ours["lm_head"]["kernel"].T)
    for i in range(text.num_hidden_layers):
        at, layer = f"model.layers.{i}", ours["layers"]
        for name in ("input_layernorm", "post_attention_layernorm"):
            put(f"{at}.{name}.weight", layer[name]["scale"][i])
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            put(f"{at}.self_attn.{name}.weight", layer["self_attn"][name]["kernel"][i].T)
        for name in ("q_norm", "k_norm"):
            put(f"{at}.self_attn.{name}.weight", layer["self_attn"][name]["scale"][i])
            put(f"{at}.self_attn.{name}.bias", layer["self_attn"][name]["bias"][i])
        for name in ("gate_proj", "up_proj", "down_proj"):
            put(f"{at}.mlp.{name}.weight", layer["mlp"][name]["kernel"][i].T)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("text", [TEXT, POST], ids=["pre", "post"])
def test_it_equals_transformers(text):
    """Hidden states times the head: their logits of image ids are masked."""
    system = Chameleon(dataclasses.replace(SYSTEM.config, text=text))
    small = SmallRows(system)
    model = theirs_with(system, small.params)
    document = Document("d", (words(8, 9, 10), small.images["gen"][0], words(11, 12, 2)))
    batch = small.batch([[document]])
    ids, answers = system._ids(small.params, batch)
    length = small.size(document)
    with torch.no_grad():
        tokens = torch.from_numpy(np.array(ids[:1, :length])).long()
        want = model.lm_head(model.model(input_ids=tokens).last_hidden_state)[0].numpy()
    hidden = system.states(small.params, system.embed(small.params, batch), batch)[0, :length]
    found = np.asarray(super(Chameleon, system).text_logits(small.params, hidden))
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())
    # Every token is an answer but the first, whatever it is of.
    np.testing.assert_array_equal(answers[0, : length - 1], ids[0, 1:length])

    # The loss is their cross-entropy, with the squared log-normaliser beside it.
    (sums, metrics) = small.loss(small.params, batch, None, frozenset())
    logits = torch.from_numpy(want)
    nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="sum")
    z = (torch.logsumexp(logits[:-1], dim=-1) ** 2).sum() * system.config.z_weight
    np.testing.assert_allclose(sums["tokens"], float(nll + z), rtol=1e-5)
    assert float(sum(n for _, n in (metrics[f"{k}/loss"] for k in system.losses))) == length - 1


def test_text_is_never_an_image_code_and_codes_are_the_heads_rows():
    hidden = jnp.ones((1, 32))
    text = SYSTEM.text_logits(SMALL.params, hidden)[0]
    codes = SYSTEM.code_logits(SMALL.params, hidden)[0]
    assert (text[48:] == jnp.finfo(jnp.float32).min).all()
    whole = hidden[0] @ SMALL.params["language_model"]["lm_head"]["kernel"]
    np.testing.assert_allclose(text[:48], whole[:48], rtol=1e-5)
    np.testing.assert_allclose(codes, whole[48:], rtol=1e-5)


def test_published_sizes():
    counts = {name: sum(c.text.count_parameters().values()) for name, c in SIZES.items()}
    # 32 layers of 4096 and 48 of 8192 (arXiv 2405.09818, table 1), heads' norms included.
    assert round(counts["chameleon_7b"] / 1e9, 2) == 7.01
    assert round(counts["chameleon_34b"] / 1e9, 1) == 34.3


def test_codes_beyond_the_vocabulary_are_refused():
    with pytest.raises(UserError, match=r"model\.first_code: found 49, with 24 codes"):
        ChameleonConfig(TEXT, VQ, first_code=49)


def test_dropout_is_of_the_step_and_the_document():
    """With a key something is dropped, the same wherever the document stands; without, nothing."""
    import jax

    dropping = dataclasses.replace(TEXT, dropout=0.5)
    system = Chameleon(dataclasses.replace(SYSTEM.config, text=dropping))
    small = SmallRows(system)
    a, b = Document("a", (words(8, 9, 10, 11),)), Document("b", (words(12, 13),))

    def nll(rows, key):
        batch = small.batch(rows)
        mine = jnp.where(batch.uid == np.uint32(a.uid), batch.weight, 0)
        return small.loss(small.params, batch.replace(weight=mine), key, frozenset())[0]["tokens"]

    key = jax.random.key(3)
    alone = nll([[a]], key)
    np.testing.assert_allclose(nll([[b], [b, a]], key), alone, rtol=1e-5)
    assert abs(float(alone - nll([[a]], None))) > 1e-3
    assert abs(float(alone - nll([[a]], jax.random.key(4)))) > 1e-3


def test_random_params_touch_every_group():
    assert random_params(SYSTEM).keys() == {"language_model", "vqmodel"}
