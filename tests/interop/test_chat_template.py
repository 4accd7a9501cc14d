"""The exported chat template writes conversations as training renders them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import JanusProcessor

from unijax.data.document import ImageRef
from unijax.data.templates import TEMPLATES, to_text
from unijax.interop.export_files import chat_template

IMAGE, EOS = "<image_placeholder>", "<｜end▁of▁sentence｜>"
WORDS = st.text(alphabet="ab \n\t'\"{}%", max_size=8)
TURNS = st.lists(st.tuples(st.integers(0, 2), WORDS), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def processor(export_dir):
    return JanusProcessor.from_pretrained(export_dir)


def our_content(images, text):
    """Line breaks part an image from what is beside it."""
    parts = [ImageRef("here", b"") for _ in range(images)]
    content = [x for part in parts for x in (part, "\n")]
    return [*content, text]


@settings(max_examples=100, deadline=None)
@given(turns=TURNS, system=st.none() | WORDS, name=st.sampled_from(list(TEMPLATES)))
def test_it_writes_what_training_renders(processor, turns, system, name):
    template, ours, theirs = TEMPLATES[name], [], []
    if system is not None:
        ours.append({"role": "system", "content": system})
        theirs.append({"role": "system", "content": [{"type": "text", "text": system}]})
    for i, (images, text) in enumerate(turns):
        role = ("user", "assistant")[i % 2]
        images = images if role == "user" else 0
        ours.append({"role": role, "content": our_content(images, text)})
        shown = [{"type": "image"}] * images
        theirs.append({"role": role, "content": [*shown, {"type": "text", "text": text}]})
    asks = len(turns) % 2 == 1
    if asks:
        ours.append({"role": "assistant", "content": ""})
    written = processor.apply_chat_template(
        theirs, chat_template=chat_template(template, IMAGE, EOS), add_generation_prompt=asks
    )
    assert written == to_text(template.render(ours), EOS)


def test_the_exported_one_is_used(processor):
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
    more = {"role": "user", "content": "And its colour?"}
    assert processor.apply_chat_template([user, said, more], add_generation_prompt=True) == (
        "<|User|>: <image_placeholder>\nWhat is it?\n\n<|Assistant|>: A cat."
        "<｜end▁of▁sentence｜><|User|>: And its colour?\n\n<|Assistant|>:"
    )
