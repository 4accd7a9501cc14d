"""Drawing against transformers' generate, and what a picture may depend on."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.sample.conftest import PROMPTS, drawing_ids, margin
from unijax.data.document import Document, TextSpan
from unijax.ops.image import to_bytes
from unijax.sample import decoding
from unijax.sample.image import draw_codes
from unijax.sample.logits import GREEDY, Choice, Sampling
from unijax.sample.sampler import Sampler

DRAWN = Sampling(1.5, top_k=20, top_p=0.9)


def ids_of(sampler, prompt):
    return torch.tensor([drawing_ids(sampler, prompt)])


def reference_logits(model, ids, codes, guidance):
    """Guided logits [N, K] of the reference at every code, the codes before it given."""
    g = model.generation_config
    kept = (ids == g.bos_token_id) | (ids == g.generation_kwargs["boi_token_id"])
    both = torch.cat([ids, ids.where(kept, g.pad_token_id)])
    with torch.no_grad():
        drawn = model.prepare_embeddings_for_image_generation(torch.tensor(codes[None, :-1]))
        x = torch.cat([model.get_input_embeddings()(both), drawn.repeat(2, 1, 1)], dim=1)
        hidden = model.model.language_model(inputs_embeds=x).last_hidden_state
        c, u = model.model.generation_head(hidden[:, ids.shape[1] - 1 :])
    return u + guidance * (c - u)


def test_greedy_equals_generate(pair):
    """With guidance 5, prompts of different length in one batch; no near-tie is among the steps."""
    ours = pair.ours.made(PROMPTS, guidance=5.0, sampling=GREEDY)[:, 0]
    steps, distinct = 0, set()
    for prompt, codes in zip(PROMPTS, ours):
        ids = ids_of(pair.ours, prompt)
        theirs = pair.theirs.generate(
            inputs=ids, attention_mask=torch.ones_like(ids), generation_mode="image",
            do_sample=False, guidance_scale=5.0,
        )[0].numpy()  # fmt: skip
        assert margin(reference_logits(pair.theirs, ids, theirs, 5.0)).min() > 1e-3
        np.testing.assert_array_equal(codes, theirs)
        steps += len(codes)
        distinct |= set(codes.tolist())
    assert steps == 3 * 16
    assert len(distinct) >= 8


def test_without_guidance_only_the_conditional_stream_counts(pair):
    ours = pair.ours.made(PROMPTS, guidance=1.0, sampling=GREEDY)[:, 0]
    for prompt, codes in zip(PROMPTS, ours):
        logits = reference_logits(pair.theirs, ids_of(pair.ours, prompt), codes, 1.0)
        assert margin(logits).min() > 1e-3
        np.testing.assert_array_equal(codes, logits.argmax(-1))


def test_the_program(sampler):
    """Without guidance it does half the work, and no step copies or transposes a cache."""
    document, seeds = Document("d", (TextSpan((9,) * 19, (0.0,) * 19),)), np.zeros(2, np.uint32)
    alone, guided = (
        draw_codes.lower(
            sampler.system, sampler.params, *sampler.prompting.batch([document] * rows), seeds,
            Choice(), guidance,
        ).compile()
        for rows, guidance in ((2, None), (4, jnp.float32(5.0)))
    )  # fmt: skip
    assert alone.cost_analysis()["flops"] < 0.55 * guided.cost_analysis()["flops"]
    cache = f"f32[4,2,{24 + 15},8]"
    lines = [line for line in guided.as_text().splitlines() if f"= {cache}" in line]
    assert any("dynamic-update-slice" in line for line in lines)
    assert not [line for line in lines if " copy(" in line or " transpose(" in line]


@pytest.mark.parametrize(("sampling", "n"), [(GREEDY, 1), (DRAWN, 2)])
def test_a_picture_does_not_depend_on_its_company(sampler, sampling, n):
    together = sampler.made(PROMPTS, n=n, sampling=sampling, seed=7)
    for prompt, codes in zip(PROMPTS, together):
        alone = sampler.made([prompt], n=n, sampling=sampling, seed=7)[0]
        np.testing.assert_array_equal(alone, codes)


def test_seeds(sampler):
    draw = lambda prompts, n, seed: sampler.made(prompts, n, 5.0, DRAWN, seed)  # noqa: E731
    first = draw(PROMPTS[:1], 4, 0)[0]
    assert len({tuple(codes) for codes in first}) == 4
    assert not np.array_equal(first, draw(PROMPTS[:1], 4, 1)[0])
    twice = draw([PROMPTS[0], PROMPTS[0]], 1, 0)[:, 0]
    np.testing.assert_array_equal(twice, first[:2])  # a prompt given twice: its next picture


def test_the_size_of_a_batch_and_of_a_cache_do_not_show(sampler, monkeypatch):
    want = sampler.made(PROMPTS, 2, 5.0, DRAWN, seed=3)
    monkeypatch.setattr(sampler, "batch", 3)
    monkeypatch.setattr(decoding, "LEAST", 5)  # caches for 5, 10 and 15 codes
    np.testing.assert_array_equal(sampler.made(PROMPTS, 2, 5.0, DRAWN, seed=3), want)


def test_prompts_of_like_length_share_a_program(sampler):
    sampler.made(PROMPTS[:1], sampling=GREEDY)
    programs = draw_codes._cache_size()
    sampler.made(["a blue cat"], sampling=GREEDY)
    sampler.made(["dogs"], guidance=3.0, sampling=GREEDY)
    assert draw_codes._cache_size() == programs


def test_pixels_equal_the_reference(pair):
    codes = pair.ours.made(PROMPTS[:2], 1, 5.0, DRAWN)[:, 0]
    with torch.no_grad():
        want = pair.theirs.model.vqmodel.decode(torch.tensor(codes)).permute(0, 2, 3, 1).numpy()
    want = np.asarray(to_bytes(jnp.asarray(want)))
    drawn = pair.ours.draw(PROMPTS[:2], 1, 5.0, DRAWN)
    assert drawn.shape == (2, 1, 8, 8, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 10
    difference = np.abs(drawn[:, 0].astype(int) - want)
    assert difference.max() <= 1  # where rounding crosses a whole number
    assert (difference > 0).mean() < 0.01


def test_compute_in_bfloat16(pair):
    """Parameters of compute are cast once, and codes are drawn."""
    system = dataclasses.replace(pair.ours.system, dtype=jnp.bfloat16)
    low = Sampler(system, pair.params, pair.ours.tokenizer, pair.ours.template)
    kernel = low.params["language_model"]["layers_0"]["self_attn"]["q_proj"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    codes = low.made(PROMPTS[:1])
    assert len(np.unique(codes)) > 4
