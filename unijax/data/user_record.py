"""A user's line of JSON to a record. What is wrong is said with its place; nothing is skipped."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.data.tasks import FIELDS
from unijax.data.templates import IMAGE_MARKER

# Key of a line -> what it must be.
KEYS: dict[str, str] = {
    "id": "text",
    "image": "text",
    "caption": "text",
    "captions": "texts",
    "prompt": "text",
    "question": "text",
    "answer": "text",
    "questions": "question and answer pairs",
    "label": "text",
    "category": "text",
    "keywords": "texts",
    "text": "text",
    "parts": "texts and images",
    "messages": "messages",
    "images": "texts",
    "meta": "anything",
}


# Tasks that the record alone decides on: of those that differ in form only, one.
_TAUGHT = (
    "text", "page", "chat", "question", "describe", "name", "category", "keywords", "generate",
    "category_to_image",
)  # fmt: skip


def to_record(line: dict, where: str, folder: Path) -> dict:
    """Checks a line and gives it the form that tasks read; pictures are read when needed.

    Args:
      line: `image` with `caption`, `captions`, `prompt`, `label`, `category`, `keywords`; `image`
        with `question` and `answer`, or `questions`; `text`; `parts`, each with `text` or `image`;
        `messages` with `images`. `meta` may hold anything else.
      where: file and line.
      folder: that paths of pictures are relative to.
    """
    for key, value in line.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            advice = f"Did you mean {near[0]!r}?" if near else "Put other things under 'meta'."
            raise UserError(where, f"the key {key!r}", f"one of {', '.join(KEYS)}", advice)
        _check_type(where, key, value, KEYS[key])
    record: dict[str, Any] = {"id": line.get("id", where), "where": where}
    for key in ("label", "category", "keywords", "text", "prompt"):
        if key in line:
            record[key] = line[key]
    if "image" in line:
        record["image"] = picture(line["image"], where, folder)
    captions = [*line.get("captions", ()), *(line[k] for k in ("caption", "prompt") if k in line)]
    if captions:
        record["captions"] = captions
    if ("question" in line) != ("answer" in line):
        missing = "answer" if "question" in line else "question"
        raise UserError(where, f"no {missing}", "a question with its answer", f"Add {missing!r}.")
    if "question" in line:
        record["questions"] = [{"question": line["question"], "answer": line["answer"]}]
    if "questions" in line:
        record["questions"] = [*record.get("questions", ()), *line["questions"]]
    if "parts" in line:
        record["parts"] = [_part(part, where, folder) for part in line["parts"]]
    if "messages" in line:
        _check_messages(line["messages"], line.get("images", []), where)
        record["messages"] = line["messages"]
        record["images"] = [picture(path, where, folder) for path in line.get("images", ())]
    elif "images" in line:
        raise UserError(
            where, "images without messages", "messages", "Use 'image' for one picture."
        )
    return record


def check_task(record: dict, task: str) -> None:
    """Raises a UserError where a record lacks what its task reads."""
    missing = [field for field in FIELDS[task] if not record.get(field)]
    if missing:
        has = sorted(set(record) - {"id", "where"})
        raise UserError(
            record["where"],
            f"no {' and no '.join(missing)} (but {', '.join(has) or 'nothing'})",
            f"{' and '.join(FIELDS[task])}, which the task {task!r} reads",
            "Add it, or choose a task that fits the data.",
        )


def teaches(record: dict) -> list[str]:
    """The tasks that a record is used for where its config names none."""
    tasks = [task for task in _TAUGHT if all(record.get(field) for field in FIELDS[task])]
    # A prompt asks for its picture, it does not describe it; and what is drawn from a caption is
    # not drawn from its category as well.
    without = {"describe": "prompt", "category_to_image": "captions"}
    return [task for task in tasks if without.get(task) not in record]


def picture(path: str, where: str, folder: Path) -> Callable[[], bytes]:
    """Reads the picture when called; that the file is there is checked now."""
    file = folder / path
    try:
        found = file.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        found = False
    if not found:
        raise UserError(
            where,
            f"no picture {_short(path)}",
            f"a file, its path relative to {folder}",
            "Correct the path.",
        )

    def read() -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise UserError(
                where, f"a picture that cannot be read ({error})", "a file", "Restore it."
            ) from error

    return read


def _part(part: dict, where: str, folder: Path) -> dict:
    if "text" in part:
        return {"text": part["text"]}
    return {"image": picture(part["image"], where, folder)}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_pairs(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(pair, dict) and set(pair) == {"question", "answer"} for pair in value)
        and all(_is_text(text) for pair in value for text in pair.values())
    )


def _are_parts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and len(part) == 1 for part in value)
        and all(key in ("text", "image") and _is_text(part[key]) for part in value for key in part)
    )


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and set(turn) == {"role", "content"} for turn in value)
        and all(_is_text(text) for turn in value for text in turn.values())
    )


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, "text that is not empty"),
    "texts": (_is_texts, "a list of texts that are not empty"),
    "question and answer pairs": (_are_pairs, 'a list of {"question": ..., "answer": ...}'),
    "texts and images": (_are_parts, 'a list of {"text": ...} and {"image": path}'),
    "messages": (_are_messages, 'a list of {"role": ..., "content": ...}'),
    "anything": (lambda value: True, "anything"),
}


def _check_type(where: str, key: str, value: Any, kind: str) -> None:
    good, expected = _CHECKS[kind]
    if not good(value):
        raise UserError(where, f"{key}: {_short(value)}", expected, f"Correct {key!r}.")


def _short(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 80 else found[:77] + "..."


def _check_messages(messages: list[dict], images: list[str], where: str) -> None:
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    if not turns or turns != expected:
        raise UserError(
            where,
            f"roles {', '.join(roles)}",
            "user and assistant in turn, the assistant last, a system message at most at the front",
            "Correct the roles.",
        )
    markers = sum(m["content"].count(IMAGE_MARKER) for m in messages if m["role"] == "user")
    if markers != len(images):
        raise UserError(
            where,
            f"{len(images)} images and {markers} markers",
            f"one {IMAGE_MARKER} in the users' messages for each image",
            "Put the marker where each image belongs.",
        )
