"""Qwen2's turns against the releases' chat templates, and what is asked with words left out."""

import jinja2
import numpy as np
import pytest

from unijax.core.errors import UserError
from unijax.data.document import ImageRef
from unijax.data.templates import TEMPLATES, Eos, Image, Role, Text, check_marks

# As they stand in the releases' files, for text and pictures.
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}[image]{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '[image]' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PICTURE = ImageRef("here", np.zeros((8, 8, 3), np.uint8))


def written(pieces) -> str:
    words = []
    for piece in pieces:
        match piece:
            case Text(text):
                words.append(text)
            case Role(name):
                words.append(name)
            case Eos():
                words.append("<|im_end|>")
            case Image(role):
                words.append("[image]" if role == "und" else "[gen]")
    return "".join(words)


def theirs(source: str, messages) -> str:
    def parts(content):
        content = [content] if isinstance(content, str) else content
        return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"}
                for p in content]  # fmt: skip

    turns = [{"role": m["role"], "content": parts(m["content"])} for m in messages]
    return jinja2.Template(source).render(messages=turns, add_generation_prompt=True)


ASKED = [{"role": "user", "content": [PICTURE, "What is it?"]}]


@pytest.mark.parametrize(("name", "source"), [("qwen2.5_vl", QWEN), ("llava_onevision", ONEVISION)])
def test_a_question_is_what_the_release_writes(name, source):
    ours = TEMPLATES[name].render([*ASKED, {"role": "assistant", "content": ""}])
    assert written(ours) == theirs(source, ASKED)


def test_what_the_assistant_says_is_learned_with_its_end():
    said = [*ASKED, {"role": "assistant", "content": "A fox."}]
    pieces = TEMPLATES["qwen2.5_vl"].render(said)
    assert written(pieces) == theirs(QWEN, said).removesuffix("<|im_start|>assistant\n")
    learned = [p for p in pieces if getattr(p, "trained", False)]
    assert learned == [Text("A fox.", True), Eos(True)]


@pytest.mark.parametrize(("name", "source"), [("qwen2.5_vl", QWEN), ("llava_onevision", ONEVISION)])
def test_a_picture_is_asked_for_as_the_released_code_does(name, source):
    """Its system message, then a new line behind the assistant's role."""
    template = TEMPLATES[name]
    system = {"role": "system", "content": template.draws}
    for content in ("a red fox", [PICTURE, "make it blue"]):
        asked = [system, {"role": "user", "content": content}]
        assert written(template.asking(content, "")) == theirs(source, asked) + "\n"
    drawn = [{"role": "user", "content": "a red fox"}, {"role": "assistant", "content": [PICTURE]}]
    whole = written(template.render(drawn))
    assert whole.startswith(theirs(source, [system, drawn[0]]) + "\n[gen]")


def test_a_tokenizer_without_the_marks_of_turns_is_refused():
    check_marks("janus", {}, "tokenizer")
    check_marks("qwen2.5_vl", {"<|im_start|>": 1, "<|im_end|>": 2}, "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer: found no special token <\|im_end\|>;"):
        check_marks("qwen2.5_vl", {"<|im_start|>": 1}, "tokenizer")


@pytest.mark.parametrize("role", ["tool", "system"])
def test_a_role_that_there_is_not_is_refused(role):
    with pytest.raises(UserError, match=f"role '{role}'"):
        TEMPLATES["qwen2.5_vl"].render([*ASKED, {"role": role, "content": "x"}])
