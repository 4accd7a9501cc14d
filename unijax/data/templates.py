"""Templates of conversations, as data, and the pieces that every task is written in."""

import dataclasses
from collections.abc import Sequence

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


TEMPLATES = {
    "janus_pro": Template("<|User|>", "<|Assistant|>"),
    "janus": Template("User", "Assistant"),
}


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
