"""Transfusion: what every decoder must do, and what its paper says of masks, noise and drawing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig as HFConfig
from transformers import LlamaForCausalLM

from tests.long import MARKS
from tests.systems.decoder_suite import DecoderSuite
from tests.systems.small import SmallRows, words
from unijax.core.batch import Kind
from unijax.core.errors import UserError
from unijax.data.document import Document, ImageSpan
from unijax.data.render import drop_condition
from unijax.models.autoencoder import AutoencoderConfig, Posterior
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.models.llama import LlamaConfig
from unijax.models.unet import UNetConfig
from unijax.ops.diffusion import add_noise, draw_noise, draw_step_noise, make_sampler
from unijax.sample.in_place import draw_latents
from unijax.sample.logits import guide
from unijax.sample.prompts import Prompting, up_to_image
from unijax.systems.transfusion import IMAGE, RECIPE, SIZES, Transfusion, TransfusionConfig
from unijax.train.stage import Rule

TEXT = LlamaConfig(48, 32, 48, 2, 4, 2, 8, 1e-5)
AUTOENCODER = AutoencoderConfig(8, 4, (32, 32), 1, scaling_factor=0.7)
PATCHES = LatentPatchesConfig(4, 4, 2)
CONFIG = TransfusionConfig(TEXT, AUTOENCODER, PATCHES, steps=4, head_chunk=16)
SYSTEM = Transfusion(CONFIG)
UNET = UNetConfig(4, 4, 4, (32, 32), 1, (False, True), False, 0, 4)


class TestTransfusion(DecoderSuite):
    small = SmallRows(SYSTEM, rules=(Rule("autoencoder/", frozen=True),))
    recipe = RECIPE
    long = frozenset()
    edges = 0.03
    # The autoencoder spreads its images over all devices; latents go back to their rows.
    may_gather = (*DecoderSuite.may_gather, "concatenate", "LatentPatches")
    # Hidden states of images are found among all positions.
    may_gather_positions = (*DecoderSuite.may_gather_positions, "jvp()/sharding_constraint")


SMALL = TestTransfusion.small
PARAMS = SMALL.params


def clean(slots):
    return slots.replace(t_max=jnp.zeros_like(slots.t_max))


def states(system, params, batch):
    return system.states(params, system.embed(params, batch), batch)


# The decoder


def hf_llama(params) -> LlamaForCausalLM:
    """transformers' Llama with our weights."""
    model = LlamaForCausalLM(
        HFConfig(
            vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
            tie_word_embeddings=False, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    ours, state = params["language_model"], model.state_dict()
    names = {f"self_attn.{n}_proj": ("self_attn", f"{n}_proj") for n in "qkvo"}
    names |= {f"mlp.{n}_proj": ("mlp", f"{n}_proj") for n in ("gate", "up", "down")}
    for i in range(2):
        for theirs, (group, name) in names.items():
            kernel = ours["layers"][group][name]["kernel"][i]
            state[f"model.layers.{i}.{theirs}.weight"] = torch.from_numpy(np.array(kernel.T))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            scale = ours["layers"][norm]["scale"][i]
            state[f"model.layers.{i}.{norm}.weight"] = torch.from_numpy(np.array(scale))
    state["model.norm.weight"] = torch.from_numpy(np.array(ours["norm"]["scale"]))
    state["lm_head.weight"] = torch.from_numpy(np.array(ours["lm_head"]["kernel"].T))
    table = ours["embed_tokens"]["embedding"]
    state["model.embed_tokens.weight"] = torch.from_numpy(np.array(table))
    model.load_state_dict(state)
    return model


def test_it_equals_llama_with_the_hybrid_mask():
    """Causal, or both patches of one image (section 3)."""
    und, gen = SMALL.images["und"][0], SMALL.images["gen"][0]
    document = Document("d", (words(8, 9), und, words(10, 11), gen, words(12)))
    batch = SMALL.batch([[document]])
    n = SMALL.size(document)
    image = np.asarray(batch.image[0, :n])
    at = np.arange(n)
    allowed = (at[None] <= at[:, None]) | ((image[:, None] == image) & (image > 0))
    mask = torch.from_numpy(np.where(allowed, 0.0, -np.inf)[None, None]).float()
    x = SYSTEM.embed(PARAMS, batch)
    model = hf_llama(PARAMS)
    with torch.no_grad():
        inputs = torch.from_numpy(np.array(x[:1, :n]))
        want = model.model(inputs_embeds=inputs, attention_mask=mask).last_hidden_state[0].numpy()
    found = np.asarray(SYSTEM.states(PARAMS, x, batch)[0, :n])
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_without_images_and_without_the_noise_loss_it_is_llama():
    document = Document("d", (words(8, 9, 10, 11),))
    batch = SMALL.batch([[document]]).replace(images={})
    sums, _ = SMALL.loss(PARAMS, batch, None, frozenset())
    ids = torch.tensor([[SMALL.special.bos, 8, 9, 10, 11]])
    with torch.no_grad():
        want = hf_llama(PARAMS)(input_ids=ids, labels=ids).loss * 4
    np.testing.assert_allclose(sums["text"], float(want), rtol=1e-5)
    assert sums["noise"] == 0


def test_a_patch_reaches_the_earlier_ones_of_its_image_and_no_earlier_text():
    document = Document("d", (words(8, 9), SMALL.images["gen"][0], words(10)))
    batch = SMALL.batch([[document]])
    x = SYSTEM.embed(PARAMS, batch)
    here = np.flatnonzero(np.asarray(batch.kind[0]) == Kind.GEN)
    moved = SYSTEM.states(PARAMS, x.at[0, here[-1]].add(1.0), batch)[0]
    still = SYSTEM.states(PARAMS, x, batch)[0]
    change = np.abs(np.asarray(moved - still)).max(axis=-1)
    assert (change[here] > 1e-4).all()
    assert change[: here[0]].max() < 1e-6  # words and begin-of-image


# Noise


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_noise_loss_is_the_papers(prediction):
    """A loop over images: one timestep and one noise each, before patches; a mean, then a mean."""
    config = dataclasses.replace(CONFIG, prediction=prediction)
    small = SmallRows(Transfusion(config))
    gen, und = small.images["gen"], small.images["und"]
    rows = [
        [Document("a", (words(8), gen[0])), Document("b", (und[0], words(9)))],
        [Document("c", (words(10), gen[1]))],
    ]
    batch = small.batch(rows)
    sums, metrics = small.loss(PARAMS, batch, None, frozenset())
    assert small.system.weights(batch)["noise"] == 3
    hidden = states(SYSTEM, PARAMS, batch)
    slots, errors = batch.images[IMAGE], []
    timesteps = np.asarray(SYSTEM.timesteps(slots))
    moments = jax.vmap(lambda p: SYSTEM.encode_moments(PARAMS, p))(
        slots.pixels.astype(jnp.float32) / 127.5 - 1
    )
    n = CONFIG.num_tokens
    for row, slot in ((0, 0), (0, 1), (1, 0)):
        seed = slots.seed[row, slot]
        mean, log_variance = np.split(np.asarray(moments[row, slot]), 2, axis=-1)
        latents = 0.7 * Posterior(mean, log_variance).sample(seed)
        noise = draw_noise(seed, latents.shape)
        t = timesteps[row, slot]
        level = CONFIG.schedule.level(jnp.asarray(t))
        noised = add_noise(latents, noise, level)
        tokens, skips = SYSTEM.embed_latents(PARAMS, noised[None], jnp.full(1, float(t)))
        shown = (batch.kind[row] == Kind.GEN) & (batch.tokens[row] // n == slot)
        at = np.flatnonzero(np.asarray(shown))
        x = SYSTEM.embed(PARAMS, batch)[row]
        np.testing.assert_allclose(x[at], tokens[0], rtol=1e-5, atol=1e-5)
        found = SYSTEM.predict_noise(PARAMS, hidden[row, at][None], skips, jnp.full(1, float(t)))
        v = level.alpha * noise - level.sigma * latents  # arXiv 2202.00512, section 4
        wanted = {"epsilon": noise, "v_prediction": v}[prediction]
        errors.append(float(jnp.mean((found[0] - wanted) ** 2)))
    np.testing.assert_allclose(sums["noise"], CONFIG.noise_weight * sum(errors), rtol=1e-5)
    np.testing.assert_allclose(metrics["noise/loss"], (sum(errors), 3), rtol=1e-5)
    quarters = [metrics[f"noise/loss/q{q}"] for q in range(4)]
    np.testing.assert_allclose(np.sum(quarters, axis=0), metrics["noise/loss"], rtol=1e-5)


def test_noise_before_a_caption_is_limited_and_a_source_is_clean():
    """Table 8; and of a picture to be edited nothing is hidden nor learned."""
    seeds = jnp.arange(4000, dtype=jnp.uint32)[None]
    slots = SMALL.batch([[]]).images[IMAGE].replace(seed=seeds, weight=None, pixels=None)

    def drawn(role):
        t_max = SYSTEM.layout.by_role[role].t_max
        return np.asarray(SYSTEM.timesteps(slots.replace(t_max=jnp.full(seeds.shape, t_max))))

    assert drawn("und").max() == 499
    assert drawn("und").min() == 0
    assert drawn("gen").max() > 990
    assert (drawn("source") == -1).all()
    document = Document("d", (SMALL.images["source"][0], words(8)))
    batch = SMALL.batch([[document]])
    assert SYSTEM.weights(batch)["noise"] == 0
    latents = SYSTEM.encode_latents(
        PARAMS, batch.images[IMAGE].pixels[0, :1].astype(jnp.float32) / 127.5 - 1
    )
    want, _ = SYSTEM.embed_latents(PARAMS, latents, jnp.full(1, -1.0))
    found = SYSTEM.embed(PARAMS, batch)[0, 2 : 2 + CONFIG.num_tokens]
    np.testing.assert_allclose(found, want[0], rtol=1e-5, atol=1e-5)


def test_begin_of_image_is_learned_and_what_follows_it_is_no_word():
    document = Document("d", (words(8, 9), SMALL.images["gen"][0], words(10)))
    batch = SMALL.batch([[document]])
    kinds = np.asarray(batch.target_kind[0, : SMALL.size(document)]).tolist()
    # bos 8 9 boi | 4 patches | eoi 10
    assert kinds == [1, 1, 1, 0, 4, 4, 4, 4, 1, 0]
    assert batch.target[0, 2] == SMALL.special.boi


def test_an_unconditional_image_has_an_empty_prompt():
    spans = [words(8, 9), SMALL.images["gen"][0]]
    assert drop_condition(spans, 1, 0, SYSTEM.layout) == spans[1:]


# Drawing


@pytest.mark.parametrize(
    ("layers", "guidance", "prediction"),
    [
        pytest.param("linear", None, "v_prediction", marks=MARKS),
        ("linear", 3.0, "epsilon"),
        pytest.param("unet", 3.0, "epsilon", marks=MARKS),
    ],
)
def test_drawing_equals_working_the_whole_row_again_at_every_step(layers, guidance, prediction):
    config = dataclasses.replace(CONFIG, prediction=prediction)
    if layers == "unet":
        config = dataclasses.replace(config, patches=None, unet=UNET)
    small = SmallRows(Transfusion(config))
    system, params = small.system, small.params
    layout, special = system.layout, small.special
    source = small.images["source"][1]
    prompts = [Document("p", (words(8, 9, 10),)), Document("q", (words(8), source, words(11)))]
    free = [Document("f", ())] * 2
    asked = [up_to_image(d, "gen", layout, special) for d in prompts]
    if guidance is not None:
        asked += [up_to_image(d, "gen", layout, special) for d in free]
    seeds = np.array([5, 6], np.uint32)
    scale = None if guidance is None else jnp.float32(guidance)
    batch = Prompting(layout, special).batch(asked)
    found = draw_latents(system, system.for_decoding(params), *batch, seeds, scale, 4)

    @jax.jit
    def predict(x, timestep, row, at):
        """Without a cache: of a noised picture and a timestep, in the row of a prompt."""
        told = jnp.full(1, timestep)
        tokens, skips = system.embed_latents(params, x[None], told)
        inputs = system.embed(params, row).at[0, at].set(tokens[0])
        hidden = system.states(params, inputs, row)[0, at]
        return system.predict_noise(params, hidden[None], skips, told)[0]

    def row_of(prompt):
        picture = ImageSpan("gen", small.images["gen"][0].image)
        row = small.batch([[Document("d", (*prompt.spans, picture))]])
        row = row.replace(images={IMAGE: clean(row.images[IMAGE])})
        return row, np.flatnonzero(np.asarray(row.kind[0]) == Kind.GEN)[-config.num_tokens :]

    sampler = make_sampler("ddpm", config.schedule, 4, prediction_type=prediction)
    step = jax.jit(sampler.step)
    for i, prompt in enumerate(prompts):
        alone = draw_latents(
            system, system.for_decoding(params),
            *Prompting(layout, special).batch(asked[i::2]), seeds[i : i + 1], scale, 4,
        )  # fmt: skip
        np.testing.assert_allclose(found[i], alone[0], rtol=1e-4, atol=1e-4)

        state = sampler.init(draw_noise(jnp.asarray(seeds[i]), system.maker.shape))
        for call in range(sampler.calls):
            x, timestep = sampler.model_input(state)
            out = predict(x, timestep, *row_of(prompt))
            if guidance is not None:
                out = guide(out, predict(x, timestep, *row_of(free[i])), scale)
            fresh = draw_step_noise(jnp.asarray(seeds[i : i + 1]), jnp.int32(call), x.shape)[0]
            state = step(state, out, fresh)
        np.testing.assert_allclose(
            found[i], state.sample, atol=1e-4 * np.abs(np.asarray(state.sample)).max()
        )


# Sizes and mistakes


def test_published_sizes():
    """Table 2 with untied embeddings, and about 0.27B for the U-Net's layers (section 3)."""
    millions = {"0.16b": 162.4, "0.37b": 373.9, "0.76b": 777.9, "1.4b": 1364.3, "7b": 6738.4}
    for size, expected in millions.items():
        text = SIZES[f"transfusion_{size}_linear"].text
        total = sum(text.count_parameters().values()) - 2 * 2 * text.hidden_size
        assert round(total / 1e6, 1) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches": None}, "model.patches, model.unet: found neither"),
        ({"unet": UNET}, "model.patches, model.unet: found both"),
        ({"patches": LatentPatchesConfig(8, 4, 2)}, "size of the latents: found 8; expected 4"),
        ({"patches": LatentPatchesConfig(4, 8, 2)}, "channels of the latents: found 8; expected 4"),
        ({"read_limit": 0.0}, "model.read_limit: found 0.0"),
        ({"prediction": "sample"}, "model.prediction: found 'sample'; expected one of"),
        (
            {"patches": None, "unet": dataclasses.replace(UNET, mid_block=True)},
            "model.unet: found mid_block=True, cross_attention_dim=0; expected False and 0",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        dataclasses.replace(CONFIG, **change)


def test_a_patch_size_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="a divisor of latent_size=4"):
        LatentPatchesConfig(4, 4, 3)
