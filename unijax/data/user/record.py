"""From a user's line, row or sample to a record. What is wrong is said with its place."""

import difflib
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.data.tasks import FIELDS
from unijax.data.user import conversation, forms
from unijax.data.user.notes import Notes
from unijax.data.user.picture import Picture, picture, short

# Key of a line -> what it must be.
KEYS: dict[str, str] = {
    "id": "name",
    "image": "picture",
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
    "images": "anything",
    "meta": "anything",
}

# Tasks that the record alone decides on: of those that differ in form only, one.
_TAUGHT = (
    "text", "page", "chat", "draw", "question", "describe", "name", "category", "keywords",
    "generate", "category_to_image",
)  # fmt: skip


def to_record(line: dict, where: str, folder: Path, notes: Notes, loose: bool = False) -> dict:
    """Checks a line and gives it the form that tasks read; pictures are read when needed.

    Args:
      line: `image` with `caption`, `captions`, `prompt`, `label`, `category`, `keywords`; `image`
        with `question` and `answer`, or `questions`; `text`; `parts`, each with `text` or `image`;
        or a conversation (`data.user.conversation`) with `image` or `images`. `meta` may hold
        anything else.
      where: file and line.
      folder: that paths of pictures are relative to.
      notes: takes what was understood.
      loose: other keys are left alone, as in the tables of others; but not those that look like a
        misspelt one of `KEYS`. So it is with a line that has a conversation.
    """
    no_image = "image" in line and line["image"] is None
    line = {key: value for key, value in line.items() if value is not None}

    def take(reference: Any) -> Picture:
        return picture(reference, where, folder)

    line = forms.as_ours(line, where, folder, notes)
    talks = conversation.key_of(line)
    line = _known(line, where, notes, loose, talks)
    record: dict[str, Any] = {"id": line.get("id") or where, "where": where}
    if talks:
        line, spoken = _conversation(line, talks, where, take, notes)
        record |= spoken
    images = conversation.listed(line.get("images"))
    if loose and len(images) == 1 and "image" not in line:
        line |= {"image": images[0], "images": None}
    if "image" in line and "text" in line and not any(key in line for key in _OF_IMAGE):
        line["caption"] = line.pop("text")  # as tables of captioned pictures call it
        notes.said["'text' is the caption of 'image'"] += 1
    elif no_image and "text" in line:
        notes.said["'text' beside an 'image' of null is a text without a picture"] += 1
    if isinstance(line.get("caption"), list) and "captions" not in line:
        line["captions"] = line.pop("caption")  # as tables of several captions call them
    for key, value in line.items():
        _check_type(where, key, value)
    for key in ("label", "category", "keywords", "text", "prompt"):
        if key in line:
            record[key] = line[key]
    if "image" in line:
        record["image"] = take(line["image"])
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
        record["parts"] = [
            part if "text" in part else {"image": take(part["image"])} for part in line["parts"]
        ]
    if line.get("images") is not None:
        raise UserError(
            where, "images without messages", "messages", "Use 'image' for one picture."
        )
    return record


# Keys of a line that want its picture for themselves, not for the conversation beside them.
_OF_IMAGE = ("caption", "captions", "prompt", "question", "questions", "label", "category")


def _conversation(
    line: dict, talks: str, where: str, take: Callable[[Any], Picture], notes: Notes
) -> tuple[dict, dict]:
    """What else the line holds, and the fields of its conversation."""
    images = conversation.listed(line.get("images"))
    image_is_its = not images and (talks != "messages" or not any(k in line for k in _OF_IMAGE))
    if image_is_its:
        images = conversation.listed(line.get("image"))
    fields = conversation.read(line, images, where, take, notes)
    if talks != "messages":
        notes.forms[f"{talks!r}"] += 1
    gone = conversation.keys(talks) - (set() if image_is_its else {"image"})
    rest = {key: value for key, value in line.items() if key not in gone}
    if talks != "messages":  # of others' lines the conversation alone
        notes.unread.update(key for key in rest if key not in ("id", "meta"))
        rest = {key: value for key, value in rest.items() if key == "id"}
    elif isinstance(rest.get("label"), bool):  # of ms-swift: whether an answer is preferred
        del rest["label"]
        notes.unread["label"] += 1
    return rest, fields


def _known(line: dict, where: str, notes: Notes, loose: bool, talks: str) -> dict:
    """The line without the keys that are not known, where they may be."""
    known = {*KEYS, *(conversation.keys(talks) if talks else ())}
    strange = [key for key in line if key not in known]
    for key in strange:
        if key in conversation.LISTS[:3]:
            if talks:
                found = f"both {talks!r} and {key!r}"
                raise UserError(where, found, "one conversation", "Take one of them out.")
            expected = 'a list of turns, {"role": ..., "content": ...}'
            raise UserError(where, f"{key}: {short(line[key])}", expected, f"Correct {key!r}.")
        if talks and key in _OTHERWISE and line[key]:
            raise UserError(where, f"{key!r}", "texts and pictures", "Take the line out.")
        near = meant_by(key, line) if loose or talks else _nearest(key)
        if not near and (loose or talks):
            continue
        advice = f"Did you mean {near!r}?" if near else "Put other things under 'meta'."
        raise UserError(where, f"the key {short(key)}", f"one of {', '.join(KEYS)}", advice)
    notes.unread.update(map(short, strange))
    return {key: value for key, value in line.items() if key in known}


_OTHERWISE = ("videos", "video", "audios", "audio")


@functools.lru_cache(4096)
def _nearest(key: str) -> str:
    """The key that is meant, or "". Long ones, of which the search takes the square, are none."""
    known = {*KEYS, *conversation.LISTS}
    near = difflib.get_close_matches(key, known, 1, 0.7) if len(key) < 40 else []
    return near[0] if near else ""


def meant_by(key: str, line: Collection[str]) -> str:
    """The key that another one is a slip of, where others may stand, or "".

    'captoin' is one, 'category_id' is not, nor is any where the right key is there as well.
    """
    near = _nearest(key)
    if not near or near in line or near in ("id", "meta") or abs(len(key) - len(near)) > 1:
        return ""
    return near if difflib.SequenceMatcher(None, key, near).ratio() >= 0.8 else ""


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


def teaches(fields: Collection[str]) -> list[str]:
    """The tasks that a record with these fields is used for where its config names none."""
    tasks = [task for task in _TAUGHT if all(field in fields for field in FIELDS[task])]
    # A prompt asks for its picture, it does not describe it; what is drawn from a caption is not
    # drawn from its category as well; and a conversation with drawings counts as drawing.
    without = {"describe": "prompt", "category_to_image": "captions", "chat": "drawings"}
    return [task for task in tasks if without.get(task) not in fields]


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
        and all("image" in part or _is_text(part.get("text")) for part in value)
    )


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, "text that is not empty"),
    "name": (lambda value: isinstance(value, str), "text or a number"),
    "texts": (_is_texts, "a list of texts that are not empty"),
    "question and answer pairs": (_are_pairs, 'a list of {"question": ..., "answer": ...}'),
    "texts and images": (_are_parts, 'a list of {"text": ...} and {"image": path}'),
    # A list of turns has been read before.
    "messages": (lambda value: False, 'a list of {"role": ..., "content": ...}'),
    "picture": (lambda value: True, ""),  # `take` says what is wrong with it
    "anything": (lambda value: True, ""),
}


def _check_type(where: str, key: str, value: Any) -> None:
    good, expected = _CHECKS[KEYS[key]]
    if not good(value):
        raise UserError(where, f"{key}: {short(value)}", expected, f"Correct {key!r}.")
