"""The exported chat template: as training renders, else as the released template writes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import JanusProcessor

from unijax.data.document import ImageRef
from unijax.data.templates import JANUS, to_text
from unijax.interop.systems.janus.chat_template import chat_template
from unijax.sample.prompts import question

IMAGE, EOS = "<image_placeholder>", "<｜end▁of▁sentence｜>"
WORDS = st.text(alphabet="ab \n\t'\"{}%", max_size=8)
SAID = WORDS.filter(str.strip)


@pytest.fixture(scope="module")
def processor(export_dir):
    return JanusProcessor.from_pretrained(export_dir)


def written(processor, messages, go_on=False, name="janus_pro"):
    text = chat_template(JANUS[name], IMAGE, EOS)
    return processor.apply_chat_template(messages, chat_template=text, add_generation_prompt=go_on)


def text(said):
    return {"type": "text", "text": said}


def turn(role, *parts):
    return {"role": role, "content": list(parts)}


def asked(images, said):
    """A turn as `unijax ask` makes it."""
    pictures = [ImageRef("here", b"")] * images
    return question(said, pictures)["content"]


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(0, 2), SAID), min_size=1, max_size=5),
    system=st.none() | WORDS,
    name=st.sampled_from(list(JANUS)),
)
def test_it_writes_what_training_renders(processor, turns, system, name):
    template, ours, theirs = JANUS[name], [], []
    if system is not None:
        ours.append({"role": "system", "content": system})
        theirs.append(turn("system", text(system)))
    for i, (images, said) in enumerate(turns):
        role = ("user", "assistant")[i % 2]
        images = images if role == "user" else 0
        ours.append({"role": role, "content": asked(images, said)})
        # Beside nothing a text has no white space; behind a picture that in front of it counts.
        theirs.append(turn(role, *[{"type": "image"}] * images, text(said)))
    asks = len(turns) % 2 == 1
    if asks:
        ours.append({"role": "assistant", "content": ""})
    expected = to_text(template.render(ours), EOS)
    # A last answer can be gone on with: nothing stands behind it.
    expected = expected if asks else expected.removesuffix(EOS)
    assert written(processor, theirs, asks, name) == expected


def released(messages, go_on):
    """What the chat template of deepseek-community's checkpoints writes, step by step.

    It was held to that template, the file of SHA-256 ca86eba863fa87fe..., on random conversations.
    """
    out = ""
    for i, message in enumerate(messages):
        last, role, parts = i == len(messages) - 1, message["role"].lower(), message["content"]
        if role == "user":
            out += "<|User|>: "
        elif role == "assistant":
            silent = last and not go_on and parts[:1] == [text("")]
            out += "<|Assistant|>:" + ("" if silent else " ")
        else:
            out += message["role"].capitalize() + ": "
        for j, part in enumerate(parts):
            first, end = j == 0, j == len(parts) - 1
            if part["type"] == "image":
                out += ("" if first else "\n") + IMAGE + ("" if end else "\n")
            else:
                said = part["text"]
                said = said.lstrip() if first else said
                said = said.rstrip() if end else said
                beside = not first and parts[j - 1]["type"] == "text"
                out += (" " if beside else "") + said
        if not last or go_on:
            out += "\n\n" if role == "user" else EOS
    return out + ("<|Assistant|>:" if go_on else "")


PARTS = st.lists(WORDS.map(text) | st.just({"type": "image"}), min_size=1, max_size=4)
ROLES = st.sampled_from(["user", "User", "USER", "assistant", "Assistant"])


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(st.builds(lambda r, p: turn(r, *p), ROLES, PARTS), min_size=1, max_size=5),
    go_on=st.booleans(),
)
def test_it_writes_what_the_released_one_does(processor, messages, go_on):
    assert written(processor, messages, go_on) == released(messages, go_on)


A, B = text("a cat"), text("a dog")


@pytest.mark.parametrize(
    ("messages", "go_on", "expected"),
    [
        ([turn("User", A)], True, "<|User|>: a cat\n\n<|Assistant|>:"),
        ([turn("user", A, B)], True, "<|User|>: a cat a dog\n\n<|Assistant|>:"),
        ([turn("user", A), turn("user", B)], True,
         "<|User|>: a cat\n\n<|User|>: a dog\n\n<|Assistant|>:"),
        ([turn("user", A), turn("assistant", B)], False, "<|User|>: a cat\n\n<|Assistant|>: a dog"),
        ([turn("user", A), turn("assistant", text(""))], False,
         "<|User|>: a cat\n\n<|Assistant|>:"),
        ([turn("user", text(""))], True, "<|User|>: \n\n<|Assistant|>:"),
        ([turn("user", A, {"type": "image"}, B)], True,
         f"<|User|>: a cat\n{IMAGE}\na dog\n\n<|Assistant|>:"),
    ],
)  # fmt: skip
def test_cases_that_differed_from_the_released_one(processor, messages, go_on, expected):
    assert released(messages, go_on) == expected
    assert written(processor, messages, go_on) == expected


def test_a_system_message_is_as_models_are_trained_here_not_as_the_released_one_writes(processor):
    # deepseek-ai's own code writes it so, too; no model is known that was trained on the other.
    messages = [turn("system", text("Be kind.")), turn("user", A)]
    assert written(processor, messages, True) == "Be kind.\n\n<|User|>: a cat\n\n<|Assistant|>:"
    assert released(messages, True) == f"System: Be kind.{EOS}<|User|>: a cat\n\n<|Assistant|>:"


def test_what_no_template_knows_is_refused(processor):
    for messages, expected in (
        ([turn("tool", A)], "roles are user and assistant"),
        ([turn("user", A), turn("system", B)], "roles are user and assistant"),
        ([turn("user", {"type": "video"})], "parts of a message are text and image"),
    ):
        with pytest.raises(Exception, match=expected):
            written(processor, messages)


def test_texts_that_are_no_parts_are_taken(processor):
    user = turn("user", {"type": "image"}, text("What is it?"))
    messages = [
        user,
        {"role": "assistant", "content": " A cat. "},
        {"role": "user", "content": "?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        f"<|User|>: {IMAGE}\nWhat is it?\n\n<|Assistant|>: A cat.{EOS}<|User|>: ?\n\n<|Assistant|>:"
    )
