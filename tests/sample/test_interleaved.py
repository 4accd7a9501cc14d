"""Texts with pictures within them, against a loop that works the whole row for every word."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.long import MARKS
from tests.systems import test_chameleon, test_llavafusion, test_transfusion
from tests.systems.small import random_params
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.data.templates import TEMPLATES
from unijax.data.tokenizer import load
from unijax.main import use
from unijax.sample.interleaved import compose
from unijax.sample.logits import GREEDY
from unijax.sample.prompts import conversation, question
from unijax.sample.sampler import Sampler
from unijax.systems.llavafusion import LLaVAFusion

TOKENIZER = load(pathlib.Path(__file__).parents[2] / "assets" / "tokenizer")
SPECIAL = TOKENIZER.special
PICTURE = np.random.default_rng(1).integers(0, 256, (9, 5, 3), np.uint8)
ASKED = [
    [question("two red dogs")],
    [question("a cat", [PICTURE])],
    [question("say something")],
]
WORDS, MOST = 12, 2


def sampler_of(system):
    """And its parameters as they train. Begin-of-image is loud: the likeliest word now and then."""
    flat = tree.flatten(random_params(system))
    flat["language_model/lm_head/kernel"] = flat["language_model/lm_head/kernel"].at[
        :, SPECIAL.boi
    ].multiply(6.0)  # fmt: skip
    params = tree.unflatten(flat)
    return Sampler(system, params, TOKENIZER, TEMPLATES["janus_pro"], batch=2), params


def chameleon():
    c = test_chameleon.SYSTEM.config
    text = dataclasses.replace(c.text, vocab_size=4096 + c.vq.num_embeddings)
    config = dataclasses.replace(c, text=text, first_code=4096)
    return sampler_of(type(test_chameleon.SYSTEM)(config))


def transfusion():
    c = test_transfusion.CONFIG
    text = dataclasses.replace(c.text, vocab_size=4096)
    config = dataclasses.replace(c, text=text)
    return sampler_of(type(test_transfusion.SYSTEM)(config))


SAMPLERS = {"chameleon": chameleon(), "transfusion": transfusion()}


@functools.partial(jax.jit, static_argnames="system")
def states(system, params, batch):
    return system.states(params, system.embed(params, batch), batch)


def slowly(sampler, params, messages):
    """One conversation: the likeliest word of a whole row, again and again; a picture by `make`."""
    system = sampler.system
    document = conversation(messages, TOKENIZER, sampler.template, "conversation 0")
    spans, pieces, ids, count, pictures = list(document.spans), [], [], 0, 0
    for i, span in enumerate(spans):
        if isinstance(span, ImageSpan):
            pixels = jnp.asarray(sampler.prompting.pixels(span)[None] / np.float32(127.5) - 1)
            (how,) = system.encoded.values()
            values = np.asarray(getattr(system, how.method)(params, pixels))[0]
            spans[i] = ImageSpan(span.role, ImageRef("", values, name=span.image.key))
    while count < WORDS:
        row = Document("conversation 0", (*spans, TextSpan(tuple(ids), (0.0,) * len(ids))))
        batch = jax.tree.map(jnp.asarray, sampler.prompting.batch([row])[0])
        hidden = states(system, params, batch)
        word = int(np.argmax(system.text_logits(params, hidden[:, -1])[0]))
        count += 1
        if word in (SPECIAL.eos, SPECIAL.boi) and (said := TOKENIZER.decode(ids).strip()):
            pieces.append(said)
        if word == SPECIAL.eos or (word == SPECIAL.boi and pictures == MOST):
            return pieces
        if word != SPECIAL.boi:
            ids.append(word)
            continue
        spans.append(TextSpan(tuple(ids), (0.0,) * len(ids)))
        asked = Document("conversation 0", tuple(spans))
        made = sampler.make([asked], 1, None, GREEDY, 0, 3, [pictures])
        pieces.append(sampler.show(made)[0, 0])
        values = made[0, 0]
        if hasattr(system.maker, "carried"):
            values = np.asarray(system.carried_latents(params, jnp.asarray(made[0])))[0]
        spans.append(ImageSpan("gen", ImageRef("", values, name=f"picture {pictures}")))
        ids, pictures = [], pictures + 1
    if ids and (said := TOKENIZER.decode(ids).strip()):
        pieces.append(said)
    return pieces


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "chameleon" else MARKS) for n in SAMPLERS]
)
def test_texts_and_pictures_are_those_of_working_the_row_again(name):
    sampler, params = SAMPLERS[name]
    found = compose(sampler, ASKED, WORDS, MOST, steps=3)
    kinds = {tuple(type(piece) for piece in pieces) for pieces in found}
    assert len(kinds) > 1, "one shape of answers tells little"
    assert any(np.ndarray in shape for shape in kinds)
    assert any(str in shape for shape in kinds)
    for messages, pieces in zip(ASKED, found):
        want = slowly(sampler, params, messages)
        assert [type(p) for p in pieces] == [type(p) for p in want]
        for piece, other in zip(pieces, want):
            if isinstance(piece, str):
                assert piece == other
            else:
                assert np.abs(piece.astype(int) - other).max() <= 1


def test_text_goes_on_behind_a_picture_that_begins():
    """An answer without pictures is the text ahead of the first one, whole or in pieces."""
    sampler, _ = SAMPLERS["chameleon"]
    composed = compose(sampler, ASKED, WORDS, MOST, steps=3)
    ahead = [pieces[0] if pieces and isinstance(pieces[0], str) else "" for pieces in composed]
    assert any(any(isinstance(p, np.ndarray) for p in pieces) for pieces in composed)
    assert any(ahead)
    assert sampler.answer(ASKED, WORDS) == ahead
    assert ["".join(sampler.stream(messages, WORDS)) for messages in ASKED] == ahead


def test_pictures_drawn_are_lost_where_positions_run_out(monkeypatch):
    """The answer ends there, and those beside it go on."""
    whole, params = SAMPLERS["chameleon"]
    config = whole.system.config
    sampler = Sampler(whole.system, params, TOKENIZER, whole.template, batch=2)
    asked = [[question("two red dogs")], [question("two red dogs, and a cat on the mat")]]
    lengths = [
        sampler.prompting.length(conversation(m, TOKENIZER, whole.template, "")) for m in asked
    ]
    picture = config.vq.num_tokens + 2  # and its marks
    # Room for a word and a picture, twice, of the shorter prompt alone.
    most = lengths[0] + 2 * (1 + picture)
    assert most < lengths[1] + 2 * (1 + picture)
    text = dataclasses.replace(config.text, max_position_embeddings=most)
    sampler.system = type(whole.system)(dataclasses.replace(config, text=text))
    assert sampler.system.max_positions == most
    (word,) = TOKENIZER.encode("cat")[:1]

    def written(documents, limits, ends, *how):
        for document, limit in zip(documents, limits):
            assert 0 < limit <= most - sampler.prompting.length(document)
        return [[word, SPECIAL.boi][:limit] for limit in limits]

    def make_and_keep(documents, *how):
        for document in documents:
            assert sampler.prompting.length(document) + picture - 1 <= most
        made = np.zeros((len(documents), 1, config.vq.num_tokens), np.int32)
        return made, made

    monkeypatch.setattr(sampler, "written", written)
    monkeypatch.setattr(sampler, "make_and_keep", make_and_keep)
    monkeypatch.setattr(sampler, "show", lambda made: np.zeros((len(made), 1, 2, 2, 3), np.uint8))
    shapes = [[type(piece) for piece in pieces] for pieces in compose(sampler, asked, max_tokens=6)]
    assert shapes[0] == [str, np.ndarray, str, np.ndarray]
    assert shapes[1] in ([str, np.ndarray], [str, np.ndarray, str])


def test_a_picture_shown_to_a_system_that_reads_otherwise_than_it_draws():
    """LLaVAFusion's tower reads it, its twin draws from it: in a second picture of an answer it
    stood as pixels among latents that had been drawn."""
    c = test_llavafusion.CONFIG
    config = dataclasses.replace(c, text=dataclasses.replace(c.text, vocab_size=4096))
    sampler, _ = sampler_of(LLaVAFusion(config))
    both = compose(sampler, ASKED[:2], WORDS, MOST, steps=2)
    assert all(sum(isinstance(p, np.ndarray) for p in pieces) == MOST for pieces in both)


def test_a_picture_that_was_made_stands_in_the_row_as_it_was_made():
    """Not as the autoencoder makes it of its pixels again."""
    sampler, params = SAMPLERS["transfusion"]
    system, prompting = sampler.system, sampler.prompting
    latents = np.random.default_rng(0).standard_normal((1, *system.maker.shape)).astype(np.float32)
    values = np.asarray(system.carried_latents(params, jnp.asarray(latents)))[0]
    image = ImageSpan("gen", ImageRef("", values, name="made"))
    batch = jax.tree.map(jnp.asarray, prompting.batch([Document("d", (image,))])[0])
    want, _ = system.embed_latents(params, jnp.asarray(latents), jnp.full(1, -1.0))
    at = np.asarray(batch.kind[0]) == system.layout.by_role["gen"].kind
    found = np.asarray(system.embed(params, batch))[0][at]
    np.testing.assert_allclose(found, want[0], rtol=1e-4, atol=1e-4)


def test_a_system_that_never_begins_an_image_is_told(sampler):
    with pytest.raises(UserError) as error:
        compose(sampler, ASKED)
    assert str(error.value) == (
        "Janus: found it does not learn to say that an image begins; expected a system that does. "
        "Ask for pictures with `unijax sample`."
    )


def test_pictures_of_an_answer_are_written_beside_it(tmp_path, capsys):
    folder = tmp_path / "pictures"
    sampler, _ = SAMPLERS["chameleon"]
    use.converse(sampler, "", [], ["two red dogs", "a cat"], WORDS, GREEDY, 0, folder)
    shown = capsys.readouterr().out
    files = sorted(folder.iterdir())
    assert files
    assert [f.name for f in files] == [f"{i:03}.png" for i in range(len(files))]
    for file in files:
        assert f"[{file}]" in shown
