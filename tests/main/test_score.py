"""Texts and choices by likelihood."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.sample.test_interleaved import SAMPLERS, TOKENIZER
from unijax.core.errors import UserError
from unijax.data.document import Document, TextSpan
from unijax.evaluate.texts import Choice, perplexity, ranked
from unijax.main.score import score
from unijax.sample.sampler import Sampler, _windows


def never():
    raise AssertionError("the file is wrong, and is told ahead of opening the run")


def test_an_empty_choice_always_won(tmp_path):
    lines = [
        {"context": "The fox is", "choices": ["red", "blue"], "answer": 1},
        {"context": "The fox is", "choices": ["red", ""], "answer": 0},
    ]
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"choices.jsonl:2: found an empty choice"):
        score(never, path)


def test_a_choice_or_a_text_of_no_token():
    """As of tokenizers that leave white space out."""
    without = lambda pairs: [(float(len(w.strip())), len(w.split())) for _, w in pairs]  # noqa: E731
    asked = [Choice("a", ("b", "c"), 0), Choice("a", ("b", " "), 0)]
    with pytest.raises(UserError, match=r"question 1: found the choice ' ', without a token"):
        ranked(without, asked)
    assert ranked(without, asked[:1]).accuracy == 1.0
    with pytest.raises(UserError, match="texts: found no token"):
        perplexity(without, [" ", "\n"])


@pytest.mark.parametrize("size", [2, 7, 16])
@pytest.mark.parametrize("length", [1, 16, 17, 24, 100])
def test_a_text_longer_than_positions_could_not_be_scored(length, size):
    """Each id is scored once, behind half a window of what stands before, or all of it."""
    ids = list(range(length))
    scored = []
    for before, now in _windows([], ids, size):
        assert now
        assert len(before) + len(now) <= size
        assert before == scored[len(scored) - len(before) :]
        assert len(before) >= min(len(scored), size // 2)
        scored += now
    assert scored == ids
    assert _windows([1], ids, 2) == [([1], ids)]  # no context is cut in silence


def test_long_texts_beside_short_ones():
    whole, params = SAMPLERS["chameleon"]
    config = whole.system.config
    text = dataclasses.replace(config.text, max_position_embeddings=16)
    system = type(whole.system)(dataclasses.replace(config, text=text))
    sampler = Sampler(system, params, TOKENIZER, whole.template, batch=2)
    texts = ["a red cat", "the cat and the red dog sit on the mat. " * 2]
    found = sampler.score([("", text) for text in texts])
    assert [tokens for _, tokens in found] == [len(TOKENIZER.encode(text)) for text in texts]
    assert len(TOKENIZER.encode(texts[1])) > 16
    assert found[0] == pytest.approx(sampler.score([("", texts[0])])[0], rel=1e-5)
    assert np.isfinite(found[1][0])
    with pytest.raises(UserError, match=r"text 0: found .* tokens before 0 that follow"):
        sampler.score([("a", texts[1])])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perplexity_of_another_softmax_than_the_losses(name):
    """Where text and image ids share one softmax, text alone is not normalised by itself."""
    sampler, params = SAMPLERS[name]
    text = "the cat and the red dog"
    ids = TOKENIZER.encode(text)
    batch, _ = sampler.prompting.batch([Document("d", (TextSpan(tuple(ids), (1.0,) * len(ids)),))])
    batch = jax.tree.map(jnp.asarray, batch)
    _, metrics = sampler.system.loss(params, batch, None, jnp.int32(0), frozenset())
    total, count = metrics["text/loss"]
    assert int(count) == len(ids)
    found = perplexity(sampler.score, [text])
    assert found.per_token == pytest.approx(np.exp(float(total) / len(ids)), rel=1e-4)
