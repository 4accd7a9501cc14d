"""Templates of conversations, as data, and the pieces that every task is written in."""

import dataclasses
from collections.abc import Mapping, Sequence

from unijax.core.errors import UserError
from unijax.data.document import ImageRef

# Stands in the content of a message for the next of its images.
IMAGE_MARKER = "<image_placeholder>"


@dataclasses.dataclass(frozen=True)
class Text:
    """Text from a record or a template; `trained` where the loss is on it."""

    text: str
    trained: bool = False


@dataclasses.dataclass(frozen=True)
class Role:
    """The name of a role: one special token where the tokenizer has it, else plain text."""

    name: str


@dataclasses.dataclass(frozen=True)
class Eos:
    """The end of a turn or of a document."""

    trained: bool = False


@dataclasses.dataclass(frozen=True)
class Image:
    """An image, in a role of `core.stream`: "und" to be understood, "gen" to be made."""

    role: str
    image: ImageRef


@dataclasses.dataclass(frozen=True)
class Break:
    """A place where a document that is longer than a row may be cut."""


Piece = Text | Role | Eos | Image | Break


@dataclasses.dataclass(frozen=True)
class Template:
    """A conversation in the manner of DeepSeek: `ROLE: TEXT`, then a separator.

    After a message of even index comes `separator`, after one of odd index the end-of-sequence
    token. A message without text is `ROLE:` alone, where the assistant is to go on. Messages are
    stripped, and so is the whole. Source: the released code of Janus, `conversation.py`.
    """

    user: str
    assistant: str
    separator: str = "\n\n"

    def render(self, messages: Sequence[dict], where: str = "messages") -> list[Piece]:
        """Pieces of a conversation; the assistant's texts and what ends them are trained.

        A picture is to be understood in the user's message, to be generated in the assistant's.

        Args:
          messages: `{"role": "user" | "assistant", "content": text, or texts and images in order}`;
            with `"learned": False` an assistant's is given. A first message of the role "system" is
            put before the others, without a name. Nothing that a text says is looked at.
          where: the record, for messages.
        """
        pieces: list[Piece] = []
        messages = list(messages)
        if messages and messages[0]["role"] == "system":
            system = messages.pop(0)["content"].strip()
            if system:
                pieces.append(Text(system + self.separator))
        for index, message in enumerate(messages):
            assistant = message["role"] == "assistant"
            trained = assistant and message.get("learned", True)
            pieces += [Role(self._name(message["role"], where)), Text(":")]
            content = _strip(message["content"])
            if not content:
                continue
            # The assistant draws right behind `ROLE:`, where it is asked for a picture alone.
            if isinstance(content[0], str) or not assistant:
                pieces.append(Text(" ", trained))
            for part in content:
                if isinstance(part, str):
                    pieces.append(Text(part, trained))
                else:
                    pieces.append(Image("gen" if assistant else "und", part))
            if index % 2 == 0:
                pieces.append(Text(self.separator, trained))
            else:
                pieces.append(Eos(trained))
        return _strip_end(pieces)

    def asking(self, content: str | Sequence[str | ImageRef], where: str) -> list[Piece]:
        """Pieces of a user who asks for a picture, up to where it begins."""
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": ""}]
        return self.render(turns, where)

    def _name(self, role: str, where: str) -> str:
        names = {"user": self.user, "assistant": self.assistant}
        if role not in names:
            raise UserError(
                where,
                f"role {role!r}",
                "user or assistant, or system in the first message",
                "Correct the role.",
            )
        return names[role]


@dataclasses.dataclass(frozen=True)
class Headers(Template):
    """A conversation in the manner of Llama 3: a header with the role, two newlines, the text, and
    the end of the turn, which is the tokenizer's end-of-sequence.

    Source: the prompt format of Meta's model card of Llama 3.1. A system turn is one like others.
    """

    user: str = "user"
    assistant: str = "assistant"
    marks: tuple[str, str] = ("<|start_header_id|>", "<|end_header_id|>")

    def render(self, messages: Sequence[dict], where: str = "messages") -> list[Piece]:
        """As `Template.render`; an assistant's turn without text is where it goes on."""
        pieces: list[Piece] = []
        for index, message in enumerate(messages):
            system = message["role"] == "system" and index == 0
            role = "system" if system else self._name(message["role"], where)
            assistant = role == self.assistant
            trained = assistant and message.get("learned", True)
            pieces += [Role(self.marks[0]), Text(role), Role(self.marks[1]), Text(self.separator)]
            content = _strip(message["content"])
            if assistant and not content:
                continue
            for part in content:
                if isinstance(part, str):
                    pieces.append(Text(part, trained))
                else:
                    pieces.append(Image("gen" if assistant else "und", part))
            pieces.append(Eos(trained))
        return pieces


@dataclasses.dataclass(frozen=True)
class ChatML:
    """A conversation between marks, as Qwen2's: `<|im_start|>ROLE`, the text, `<|im_end|>`.

    Sources: the chat templates of Qwen2.5-VL and LLaVA-OneVision in their releases; for drawing,
    facebookresearch/metaquery (`models/model.py`).

    Attributes:
      behind_role, before_text, behind_turn: what stands there.
      system: said first where a conversation begins without a system message; empty for nothing.
      draws: said in its place where a picture is to be drawn.
      before_drawn: what stands between the assistant's role and a picture.
    """

    behind_role: str = "\n"
    before_text: str = ""
    behind_turn: str = "\n"
    system: str = ""
    draws: str = ""
    before_drawn: str = "\n"

    marks = ("<|im_start|>", "<|im_end|>")

    def render(self, messages: Sequence[dict], where: str = "messages") -> list[Piece]:
        """As `Template.render`; an assistant's empty turn is where it goes on."""
        drawn = any(
            m["role"] == "assistant" and any(not isinstance(p, str) for p in _parts(m["content"]))
            for m in messages
        )
        return self._render(messages, where, drawn)

    def asking(self, content: str | Sequence[str | ImageRef], where: str) -> list[Piece]:
        """As `Template.asking`."""
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": ""}]
        return [*self._render(turns, where, drawn=True), Text(self.before_drawn)]

    def _render(self, messages: Sequence[dict], where: str, drawn: bool) -> list[Piece]:
        begin, end = map(Role, self.marks)
        messages = list(messages)
        said = self.draws if drawn else self.system
        if said and not (messages and messages[0]["role"] == "system"):
            messages.insert(0, {"role": "system", "content": said})
        pieces: list[Piece] = []
        for index, message in enumerate(messages):
            role = message["role"]
            if role not in ("user", "assistant") and not (role == "system" and index == 0):
                raise UserError(
                    where, f"role {role!r}", "user or assistant, or system in the first message",
                    "Correct the role.",
                )  # fmt: skip
            assistant = role == "assistant"
            trained = assistant and message.get("learned", True)
            # What opens the assistant's turn has nothing between its role and the text.
            behind = "\n" if assistant else self.behind_role
            pieces += [begin, Text(f"{role}{behind}")]
            content = [part for part in _parts(message["content"]) if part != ""]
            if assistant and not content:
                continue
            for part in content:
                if not isinstance(part, str):
                    if assistant:
                        pieces.append(Text(self.before_drawn))
                    pieces.append(Image("gen" if assistant else "und", part))
                elif assistant:
                    pieces.append(Text(part, trained))
                else:
                    pieces.append(Text(self.before_text + part))
            pieces += [Eos(trained)] if assistant else [end]
            if self.behind_turn:
                pieces.append(Text(self.behind_turn))
        return pieces


def _parts(content: str | Sequence[str | ImageRef]) -> list[str | ImageRef]:
    return [content] if isinstance(content, str) else list(content)


# What facebookresearch/metaquery says before a prompt.
DRAWS = (
    "You will be given an image or its caption. Please describe the content of the image in detail "
    "in your own words."
)
JANUS = {
    "janus_pro": Template("<|User|>", "<|Assistant|>"),
    "janus": Template("User", "Assistant"),
}
TEMPLATES = JANUS | {
    "llama3": Headers(),
    "emu": Template("[USER]", "[ASSISTANT]", " "),
    "qwen2.5_vl": ChatML(system="You are a helpful assistant.", draws=DRAWS),
    "llava_onevision": ChatML(" ", "\n", "", draws=DRAWS),
}


def check_marks(name: str, tokens: Mapping[str, int], where: str) -> None:
    """Raises a UserError for a tokenizer without the special tokens of a template's turns."""
    marks = getattr(TEMPLATES[name], "marks", ())
    if missing := [mark for mark in marks if mark not in tokens]:
        raise UserError(
            where, f"no special token {', '.join(missing)}",
            f"those of the template {name!r}: {', '.join(marks)}",
            "Take the tokenizer of the model, or another data.template.",
        )  # fmt: skip


def to_text(pieces: Sequence[Piece], eos: str) -> str:
    """The pieces as one string: what the released code hands to its tokenizer."""
    words = []
    for piece in pieces:
        match piece:
            case Text(text):
                words.append(text)
            case Role(name):
                words.append(name)
            case Eos():
                words.append(eos)
            case Image():
                words.append(IMAGE_MARKER)
            case Break():
                pass
    return "".join(words)


def _strip(content: str | Sequence[str | ImageRef]) -> list[str | ImageRef]:
    """The parts of a message, without white space at its ends, without empty texts."""
    parts = [content] if isinstance(content, str) else list(content)
    while parts and isinstance(parts[0], str) and not parts[0].strip():
        parts.pop(0)
    while parts and isinstance(parts[-1], str) and not parts[-1].strip():
        parts.pop()
    if parts and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return [part for part in parts if part != ""]


def _strip_end(pieces: list[Piece]) -> list[Piece]:
    """Without white space at the end; roles and messages have none at the beginning."""
    while pieces and isinstance(pieces[-1], Text):
        last = pieces.pop()
        text = last.text.rstrip()
        if text:
            return [*pieces, Text(text, last.trained)]
    return pieces
