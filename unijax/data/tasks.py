"""Tasks: how a record becomes pieces. One function a task, chosen by name in the config.

The rule of the loss, for every task: only text and image codes are learned, and of the text only
what the task marks. Positions of images to understand, begin-of-image and end-of-image are never
answers; a generated image is learned from its first code (at begin-of-image) to its last.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from unijax.core.errors import UserError
from unijax.data.document import ImageRef
from unijax.data.templates import Break, Eos, Image, Piece, Template, Text

# What is asked about a picture that has no questions of its own.
QUESTIONS = {
    "describe": (
        "Describe the image in detail.",
        "What does the picture show?",
        "Write a caption for this image.",
    ),
    "name": ("What is shown in the picture?", "Name what you see."),
    "category": ("Which category does the picture belong to?",),
    "keywords": ("List keywords for the picture.",),
}


@dataclasses.dataclass(frozen=True)
class Context:
    """What a task may use besides the record.

    Attributes:
      where: the record, for messages.
      template: of conversations.
      rng: the document's own.
      image: makes the reference to one of the record's pictures.
      p_first_sentence: how often a caption to draw from keeps only its first sentence.
    """

    where: str
    template: Template
    rng: np.random.Generator
    image: Callable[[object], ImageRef]
    p_first_sentence: float


def text(record: dict, context: Context) -> list[Piece]:
    """Pretraining on text; it may be cut at blank lines."""
    return [*_paragraphs(_need(record, "text", context)), Eos(trained=True)]


def caption(record: dict, context: Context) -> list[Piece]:
    """Pretraining on text: a caption without its picture, for a language model that is to draw."""
    return [Text(_caption(record, context), trained=True), Eos(trained=True)]


def page(record: dict, context: Context) -> list[Piece]:
    """Pretraining on text with pictures in between."""
    pieces: list[Piece] = []
    for part in _need(record, "parts", context):
        if "text" in part:
            if pieces and isinstance(pieces[-1], Text):
                pieces.append(Break())
            pieces += _paragraphs(part["text"])
        else:
            pieces.append(Image("und", context.image(part["image"])))
    return [*pieces, Eos(trained=True)]


def chat(record: dict, context: Context) -> list[Piece]:
    """A conversation. Pictures of the assistant's turns are to be drawn."""
    messages = []
    for message in _need(record, "messages", context):
        content = message["content"]
        if not isinstance(content, str):
            content = [p if isinstance(p, str) else context.image(p) for p in content]
        messages.append(message | {"content": content})
    return context.template.render(messages, context.where)


def draw(record: dict, context: Context) -> list[Piece]:
    """A conversation in which the assistant draws, also into what it is shown."""
    _need(record, "drawings", context)
    return chat(record, context)


def question(record: dict, context: Context) -> list[Piece]:
    """One of the record's questions, with its answer."""
    pair = _choose(_need(record, "questions", context), context)
    return _ask(record, context, pair["question"], pair["answer"])


def describe(record: dict, context: Context) -> list[Piece]:
    """A question for a caption."""
    return _ask(record, context, _choose(QUESTIONS["describe"], context), _caption(record, context))


def name(record: dict, context: Context) -> list[Piece]:
    """A question for the label."""
    answer = _need(record, "label", context)
    return _ask(record, context, _choose(QUESTIONS["name"], context), answer)


def category(record: dict, context: Context) -> list[Piece]:
    """A question for the category."""
    answer = _need(record, "category", context)
    return _ask(record, context, _choose(QUESTIONS["category"], context), answer)


def keywords(record: dict, context: Context) -> list[Piece]:
    """A question for the keywords."""
    answer = ", ".join(_need(record, "keywords", context))
    return _ask(record, context, _choose(QUESTIONS["keywords"], context), answer)


def image_to_caption(record: dict, context: Context) -> list[Piece]:
    """The image, then its caption, without roles: stage 1 of Janus, understanding."""
    image = context.image(_need(record, "image", context))
    return [Image("und", image), Text(_caption(record, context), trained=True), Eos(trained=True)]


def caption_to_image(record: dict, context: Context) -> list[Piece]:
    """The caption, then its image, without roles."""
    image = context.image(_need(record, "image", context))
    return [Text(_short(_caption(record, context), context)), Image("gen", image)]


def category_to_image(record: dict, context: Context) -> list[Piece]:
    """The category's name, then an image of it: how Janus uses ImageNet in stage 1."""
    image = context.image(_need(record, "image", context))
    return [Text(_need(record, "category", context)), Image("gen", image)]


def generate(record: dict, context: Context) -> list[Piece]:
    """A user asks for an image by its caption, the assistant draws it."""
    words = _short(_caption(record, context), context)
    image = context.image(_need(record, "image", context))
    return [*context.template.asking(words, context.where), Image("gen", image)]


TASKS: dict[str, Callable[[dict, Context], list[Piece]]] = {
    task.__name__: task
    for task in (
        text, caption, page, chat, draw, question, describe, name, category, keywords,
        image_to_caption, caption_to_image, category_to_image, generate,
    )
}  # fmt: skip

# What a task reads of a record.
FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "caption": ("captions",),
    "page": ("parts",),
    "chat": ("messages",),
    "draw": ("messages", "drawings"),
    "question": ("image", "questions"),
    "describe": ("image", "captions"),
    "name": ("image", "label"),
    "category": ("image", "category"),
    "keywords": ("image", "keywords"),
    "image_to_caption": ("image", "captions"),
    "caption_to_image": ("image", "captions"),
    "category_to_image": ("image", "category"),
    "generate": ("image", "captions"),
}

# The tasks whose documents may be cut where they are longer than a row: each part stands alone. An
# answer without its picture, question or earlier turns would teach to make things up.
MAY_BE_CUT = ("text", "page")

# The stream of images that a task fills in any case: a config without it is refused early.
STREAMS = {
    **dict.fromkeys(("page", "question", "describe", "name", "category", "keywords"), "und"),
    "image_to_caption": "und",
    **dict.fromkeys(("draw", "caption_to_image", "category_to_image", "generate"), "gen"),
}


# Those whose documents have a caption alone before the picture to draw, without roles.
PLAIN = ("caption_to_image", "category_to_image")


def may_show(task: str, stream: str) -> bool:
    """Whether documents of the task may have images of the stream; of chats, some have none."""
    return task in ("chat", "draw") or STREAMS.get(task) == stream


def first_sentence(caption: str) -> str:
    """The caption up to the end of its first sentence."""
    match = re.match(r".+?(?:[.!?](?=\s)|[。！？])", caption.strip(), flags=re.DOTALL)
    return match.group(0) if match else caption.strip()


def _ask(record: dict, context: Context, question: str, answer: str) -> list[Piece]:
    """An image, a question, an answer."""
    image = context.image(_need(record, "image", context))
    turns = [
        {"role": "user", "content": [image, "\n" + question]},
        {"role": "assistant", "content": answer},
    ]
    return context.template.render(turns, context.where)


def _paragraphs(text: str) -> list[Piece]:
    """Trained text that may be cut behind blank lines."""
    pieces: list[Piece] = []
    for paragraph in re.split(r"(?<=\n\n)(?!\n)", text):
        if paragraph:
            pieces += [Text(paragraph, trained=True), Break()]
    return pieces[:-1]


def _caption(record: dict, context: Context) -> str:
    return _choose(_need(record, "captions", context), context)


def _short(caption: str, context: Context) -> str:
    """Now and then only the first sentence: Janus, section 4.2, for images to generate."""
    if context.rng.random() < context.p_first_sentence:
        return first_sentence(caption)
    return caption


def _choose(options, context: Context):
    return options[int(context.rng.integers(len(options)))]


def _need(record: dict, field: str, context: Context):
    value = record.get(field)
    if value is None or (isinstance(value, (str, list, tuple)) and not len(value)):
        raise UserError(
            context.where,
            f"no {field}",
            f"a record with {field}, which its task needs",
            "Choose another task for the source, or add the field.",
        )
    return value
