"""What a user calls, and what a user can get wrong."""

import dataclasses

import numpy as np
import pytest

from tests.sample.conftest import PROMPTS, drawing_ids
from unijax.core.errors import UserError
from unijax.data.render import DocumentKey, RenderConfig, render
from unijax.sample.decoding import bucket
from unijax.sample.logits import Sampling
from unijax.sample.prompts import conversation, question
from unijax.sample.sampler import Sampler
from unijax.sample.text import write_ids

PICTURE = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)


def test_a_prompt_is_what_training_shows(sampler):
    """Up to begin-of-image, and up to the answer: the ids of rendered documents."""
    config = RenderConfig(sampler.system.layout, sampler.template, 0.0, 0.0)
    key, tokenizer = DocumentKey("source", 0, 0), sampler.tokenizer
    record = {"id": 0, "captions": [PROMPTS[1]], "image": b"", "label": "red cat"}
    (text, _) = render(record, "generate", key, tokenizer, config).spans
    special = tokenizer.special
    ids = drawing_ids(sampler, PROMPTS[1])
    assert ids == [special.bos, *text.ids, special.boi]

    trained = render(record, "name", key, tokenizer, config).spans
    asked = tokenizer.decode(trained[2].ids).split("\n")[1]
    prompt = conversation([question(asked, [b""])], tokenizer, sampler.template, "").spans
    assert prompt[0] == trained[0]
    answered = [i for i, w in enumerate(trained[2].weights) if w]
    assert prompt[2].ids == trained[2].ids[: answered[0]]
    assert tokenizer.decode(trained[2].ids[answered[0] :]).strip() == "red cat"


def test_answers_come_in_order_and_are_text(sampler):
    asked = [
        [question("the mat, the mat, the mat, the mat?")],
        [question("what", [PICTURE])],
        [question("a")],
        [question("a"), {"role": "assistant", "content": "b"}, question("cat?")],
        [question("two blue dogs")],
    ]
    together = sampler.answer(asked, max_tokens=6)
    for i in (0, 1, 4):
        assert sampler.answer(asked[i : i + 1], max_tokens=6) == together[i : i + 1]
    assert len(set(together)) > 3
    drawn = [sampler.answer(asked[2:3], 6, Sampling(2.0), seed)[0] for seed in range(4)]
    assert len(set(drawn)) > 1
    programs = write_ids._cache_size()
    sampler.answer([[question("the cat")]], max_tokens=5)
    assert write_ids._cache_size() == programs


def test_an_answer_ends_before_end_of_sequence(sampler, monkeypatch):
    decoded = []
    monkeypatch.setattr(sampler.tokenizer, "decode", lambda ids: decoded.append(ids) or "")
    sampler.answer([[question("a")]], max_tokens=6)
    special = dataclasses.replace(sampler.tokenizer.special, eos=decoded[0][3])
    monkeypatch.setattr(sampler.tokenizer, "special", special)
    sampler.answer([[question("a")]], max_tokens=6)
    whole, ended = decoded
    assert len(whole) == 6
    assert ended == whole[: whole.index(whole[3])]


ANSWER = {"role": "assistant", "content": "b"}
ROBOT = {"role": "robot", "content": "b"}


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ([], {}, "prompts: found 0 with 1 pictures each"),
        (PROMPTS, {"n": 0}, "prompts: found 3 with 0 pictures each"),
        (PROMPTS, {"guidance": -1.0}, "guidance: found -1.0"),
        (["a", "the cat " * 60], {}, "prompt 1: found .* tokens before 16 that follow"),
    ],
)
def test_mistakes_in_prompts(sampler, prompts, more, message):
    with pytest.raises(UserError, match=message):
        sampler.draw(prompts, **more)


@pytest.mark.parametrize(
    ("conversations", "max_tokens", "message"),
    [
        ([], 8, "conversations: found none"),
        ([[]], 8, "conversation 0: found no turn"),
        ([[question("a")]], 0, "max_tokens: found 0"),
        ([[question("a")]], 200, "conversation 0: found .* tokens before 200 that follow"),
        ([[question("a"), ANSWER]], 8, "conversation 0: found a last turn of 'assistant'"),
        ([[question("a")], [ROBOT, question("a")]], 8, "conversation 1: found role 'robot'"),
        ([[question("a", [b"no picture"])]], 8, "conversation 0: found 10 bytes"),
    ],
)
def test_mistakes_in_conversations(sampler, conversations, max_tokens, message):
    with pytest.raises(UserError, match=message):
        sampler.answer(conversations, max_tokens)


def test_a_batch_of_none(sampler):
    with pytest.raises(UserError, match="batch: found 0"):
        Sampler(sampler.system, {}, sampler.tokenizer, sampler.template, batch=0)


def test_buckets():
    sizes = sorted({bucket(n) for n in range(1, 1000)})
    assert sizes == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(bucket(n) >= n for n in range(1, 1000))
    assert all(bucket(n) < 1.6 * n for n in range(16, 1000))
