"""Answers against transformers' generate, and what an answer may depend on."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.sample.conftest import margin
from unijax.sample import decoding
from unijax.sample.logits import GREEDY, Sampling
from unijax.sample.prompts import conversation, question
from unijax.sample.text import write_ids

NEVER = -1  # an id that no logit stands for: answers do not end
STEPS = 16
PICTURE = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
OTHER = np.random.default_rng(6).integers(0, 256, (40, 90, 3), np.uint8)
CONVERSATIONS = {
    "text": [question("the dog?")],
    "turns": [
        {"role": "system", "content": "cats and dogs"},
        question("two dogs"),
        {"role": "assistant", "content": "on the mat"},
        question("a red cat?"),
    ],
    "picture": [question("the red cat", [PICTURE])],
    "pictures": [
        question("two", [PICTURE]),
        {"role": "assistant", "content": "red dogs"},
        question("and", [OTHER]),
    ],
}
DRAWN = Sampling(1.2, top_p=0.95)


def documents(sampler, names):
    return [conversation(CONVERSATIONS[n], sampler.tokenizer, sampler.template, n) for n in names]


def written(sampler, names, eos=NEVER, sampling=GREEDY, limit=STEPS, seeds=None):
    """Ids [B, limit] after each conversation."""
    prompt, length = sampler.prompting.batch(documents(sampler, names))
    seeds = np.arange(len(names), dtype=np.uint32) if seeds is None else seeds
    ids = write_ids(
        sampler.system, sampler.params, prompt, length, jnp.array([eos]), seeds, sampling.choice(),
        jnp.int32(limit), space=STEPS,
    )  # fmt: skip
    return np.asarray(ids)


def reference(pair, name):
    """Ids of transformers, greedy, never ending, and the margin at each."""
    special = pair.ours.tokenizer.special
    (document,) = documents(pair.ours, [name])
    ids, pixels = [special.bos], []
    for span in document.spans:
        if hasattr(span, "ids"):
            ids += span.ids
        else:
            ids += [special.boi, *[special.image_placeholder] * 16, special.eoi]
            slots = pair.ours.prompting.batch([document])[0].images["und"]
            pixels.append(slots.pixels[0, len(pixels)])
    more = {}
    if pixels:
        x = torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
        more["pixel_values"] = x
    ids = torch.tensor([ids])
    out = pair.theirs.generate(
        inputs=ids, attention_mask=torch.ones_like(ids), generation_mode="text", do_sample=False,
        max_new_tokens=STEPS, min_new_tokens=STEPS, eos_token_id=special.eos,
        return_dict_in_generate=True, output_logits=True, **more,
    )  # fmt: skip
    return out.sequences[0, ids.shape[1] :].numpy(), margin(torch.cat(out.logits))


def test_greedy_equals_generate(pair):
    """Without, with one and with two pictures, in one and several turns, in one batch."""
    ours = written(pair.ours, CONVERSATIONS)
    distinct = set()
    for name, ids in zip(CONVERSATIONS, ours):
        theirs, margins = reference(pair, name)
        assert margins.min() > 1e-3
        np.testing.assert_array_equal(ids, theirs, err_msg=name)
        distinct |= set(ids.tolist())
    assert len(distinct) >= 8


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_an_answer_does_not_depend_on_its_company(sampler, sampling):
    together = written(sampler, CONVERSATIONS, sampling=sampling)
    for i, name in ((0, "text"), (3, "pictures")):
        seeds = np.array([i], np.uint32)
        alone = written(sampler, [name], sampling=sampling, seeds=seeds)[0]
        np.testing.assert_array_equal(alone, together[i])


def test_rows_end_on_their_own(sampler):
    whole = written(sampler, CONVERSATIONS)
    eos = int(whole[0, 4])  # ends the first answer there or earlier
    ended = written(sampler, CONVERSATIONS, eos=eos)
    for full, cut in zip(whole, ended):
        stop = full.tolist().index(eos) if eos in full else STEPS
        np.testing.assert_array_equal(cut[:stop], full[:stop])
        assert (cut[stop:] == eos).all()
    assert (ended[0] == eos).any()
    limited = written(sampler, CONVERSATIONS, limit=3)
    np.testing.assert_array_equal(limited[:, :3], whole[:, :3])
    assert (limited[:, 3:] == NEVER).all()


def test_a_cache_that_grows_changes_nothing(sampler, monkeypatch):
    want = written(sampler, ["turns", "text"])
    write_ids.clear_cache()
    monkeypatch.setattr(decoding, "LEAST", 4)
    np.testing.assert_array_equal(written(sampler, ["turns", "text"]), want)
    # Ends inside the second part; the later ones do nothing.
    limited = written(sampler, ["turns", "text"], limit=6)
    np.testing.assert_array_equal(limited[:, :6], want[:, :6])
    assert (limited[:, 6:] == NEVER).all()
    write_ids.clear_cache()
