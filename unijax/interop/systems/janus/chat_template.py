"""Chat templates in Jinja: the one that exports hold, and which of ours a foreign one is."""

import importlib.util
import json
import pathlib
import subprocess
import sys

from unijax.core.errors import UserError
from unijax.core.json_files import quoted
from unijax.data.document import ImageRef
from unijax.data.templates import JANUS, Template, to_text

_SECONDS = 60  # that a foreign template may take, the start of its process included
_MOST = 2**17  # characters of a template


def chat_template(template: Template, image: str, eos: str) -> str:
    """The template of an exported processor.

    It writes conversations as `Template.render` does: a user and an assistant in turn, texts that
    are not empty, pictures before the text, perhaps a system message at the front. The last answer
    has no end-of-sequence token behind it, so that it can be gone on with. What no model here was
    trained on is written as the template of deepseek-community's checkpoints writes it: roles in
    any case, texts beside each other with a space between, turns out of turn, empty turns.
    """
    words = {
        "USER": template.user, "ASSISTANT": template.assistant, "SEPARATOR": template.separator,
        "EOS": eos, "IMAGE": image,
    }  # fmt: skip
    text = _CHAT_TEMPLATE
    for name, word in words.items():
        text = text.replace(f"@{name}@", json.dumps(word, ensure_ascii=False))
    return text


_CHAT_TEMPLATE = """\
{%- macro written(content) -%}
  {%- if content is string -%}
    {{- content | trim -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part['type'] == 'image' -%}
        {%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}
        {{- @IMAGE@ -}}
        {%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}
      {%- elif part['type'] == 'text' -%}
        {%- if not loop.first and loop.previtem['type'] == 'text' -%}{{- ' ' -}}{%- endif -%}
        {%- set text = part['text'] -%}
        {%- if loop.first -%}{%- set text = text.lstrip() -%}{%- endif -%}
        {%- if loop.last -%}{%- set text = text.rstrip() -%}{%- endif -%}
        {{- text -}}
      {%- else -%}
        {{- raise_exception('parts of a message are text and image') -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
  {%- set role = message['role'] | lower -%}
  {%- set content = message['content'] -%}
  {%- if role == 'system' and loop.first -%}
    {%- set system = written(content) | trim -%}
    {%- if system -%}{{- system + @SEPARATOR@ -}}{%- endif -%}
  {%- elif role == 'user' -%}
    {{- @USER@ + ': ' + written(content) -}}
    {%- if not loop.last or add_generation_prompt -%}{{- @SEPARATOR@ -}}{%- endif -%}
  {%- elif role == 'assistant' -%}
    {{- @ASSISTANT@ + ':' -}}
    {%- set nothing = content == '' or (content is not string and content
                       and content[0]['type'] == 'text' and content[0]['text'] == '') -%}
    {%- if not (loop.last and not add_generation_prompt and nothing) -%}{{- ' ' -}}{%- endif -%}
    {{- written(content) -}}
    {%- if not loop.last or add_generation_prompt -%}{{- @EOS@ -}}{%- endif -%}
  {%- else -%}
    {{- raise_exception('roles are user and assistant, after a first system message') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @ASSISTANT@ + ':' -}}{%- endif -%}
"""


def recognize(text: str, where: str, eos: str) -> str:
    """Which of `JANUS` a foreign template is: conversations are written by both and compared.

    It runs in a process of its own, in Jinja's sandbox, with little memory and time.

    Args:
      text: the template.
      where: the file, for messages.
      eos: the end-of-sequence token, which a template may write out.

    Raises:
      UserError: if it is none of them, or does not run.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise _unknown(where, "a chat template, and no jinja2 to read it")
    if len(text) > _MOST:
        raise _unknown(where, f"a chat template of {len(text):,} characters")
    conversations = [_as_parts(turns) for turns in _PROBES]
    request = {"template": text, "conversations": conversations, "eos_token": eos}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(pathlib.Path(__file__).with_name("render_child.py"))],
            input=json.dumps(request),
            capture_output=True, encoding="utf-8", timeout=_SECONDS,
        )  # fmt: skip
        written = json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        written = None
    if not isinstance(written, list) or not all(isinstance(w, str) for w in written):
        raise _unknown(where, "a chat template that does not run")
    for name, template in JANUS.items():
        ours = [to_text(template.render(_as_ours(turns)), eos) for turns in _PROBES]
        if written == ours:
            return name
    raise _unknown(where, f"a chat template that writes {quoted(written[0])}")


def _unknown(where: str, found: str) -> UserError:
    forms = " or ".join(
        repr(to_text(template.render(_as_ours(_PROBES[0])), "")) for template in JANUS.values()
    )
    names = " or ".join(f"--template {name}" for name in JANUS)
    return UserError(where, found, forms, f"Say which one the model was trained with: {names}.")


_IMAGE = object()
# Turns of a user and an assistant, who goes on.
_PROBES = (
    ("Hello there!",),
    ((_IMAGE, "What is it?"), "A cat.", "And this?"),
)


def _as_ours(turns: tuple) -> list[dict]:
    messages = []
    for i, turn in enumerate((*turns, "")):
        parts = turn if isinstance(turn, tuple) else (turn,)
        content = [ImageRef("probe", b"") if p is _IMAGE else p for p in parts]
        if _IMAGE in parts:
            content.insert(1, "\n")
        messages.append({"role": ("user", "assistant")[i % 2], "content": content})
    return messages


def _as_parts(turns: tuple) -> list[dict]:
    messages = []
    for i, turn in enumerate(turns):
        parts = [
            {"type": "image"} if p is _IMAGE else {"type": "text", "text": p}
            for p in (turn if isinstance(turn, tuple) else (turn,))
        ]
        messages.append({"role": ("user", "assistant")[i % 2], "content": parts})
    return messages
