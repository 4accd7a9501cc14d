"""Lines that say under other names what a conversation says: edits, and turns in two lists."""

import collections
from collections.abc import Collection
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.data.user import conversation, text
from unijax.data.user.notes import Notes
from unijax.data.user.picture import is_picture, short

# As InstructPix2Pix, MagicBrush, UltraEdit, HQ-Edit, SEED-Data-Edit and ControlNet call a picture,
# what to change in it, and the picture that results.
_SHOWN = (
    "input_image", "original_image", "source_image", "source_img", "src_img", "image_file",
    "source",
)  # fmt: skip
_ASKED = (
    "edit_prompt", "edit_instruction", "edited_prompt_list", "edit", "instruction", "input_prompt",
    "prompt",
)  # fmt: skip
_RESULT = (
    "edited_image", "output_image", "target_image", "edited_img", "target_img", "edited_file",
    "target",
)  # fmt: skip
_RESULTS = frozenset(_RESULT)
# Keys that hold a picture, wherever they stand in a line.
PICTURE_KEYS = {"image", "path", "url", "image_url", *_SHOWN, *_RESULT}


def drawn_of(keys: Collection[str]) -> tuple[str, ...]:
    """The keys of what is shown, if anything is, of what is asked for, and of the picture drawn.

    Nothing where that is not what they say.
    """
    if _RESULTS.isdisjoint(keys):
        return ()
    shown, asked, result = (
        next((key for key in names if key in keys), "") for names in (_SHOWN, _ASKED, _RESULT)
    )
    if not asked or (result == "target" and not shown):
        return ()
    return (shown, asked, result) if shown else (asked, result)


def as_ours(line: dict, where: str, folder: Path, notes: Notes) -> dict:
    """The line, what it says under names and in forms of others under ours.

    Args:
      line: without nulls.
      where: the record, for messages.
      folder: that paths of pictures are relative to.
      notes: takes what was understood.

    Raises:
      UserError: naming the record.
    """
    line = _chosen(_in_words(_unpacked(line), notes), where, notes)
    return _as_messages(line, folder, notes)


def _in_words(line: dict, notes: Notes) -> dict:
    """The line, answers of true and false as the words that JSON writes."""

    def word(pair: Any) -> Any:
        if not isinstance(pair, dict) or not isinstance(pair.get("answer"), bool):
            return pair
        notes.said["an answer of true or false is that word"] += 1
        return pair | {"answer": str(pair["answer"]).lower()}

    if isinstance(line.get("questions"), list):
        line = line | {"questions": [word(pair) for pair in line["questions"]]}
    return word(line)


_CHOICES = ("choices", "options")


def _chosen(line: dict, where: str, notes: Notes) -> dict:
    """The line, of a question with choices these below it and the answer the chosen one.

    The answer is a number from 0, a letter from A, or the choice itself. Of several answers, as
    VQA's annotators gave, the answer is the most common one.
    """
    if isinstance(line.get("answers"), list) and line["answers"] and "answer" not in line:
        said = [a.get("answer") if isinstance(a, dict) else a for a in line["answers"]]
        ((answer, _),) = collections.Counter(map(str, said)).most_common(1)
        notes.said["of several answers the most common one is taken"] += 1
        line = {k: v for k, v in line.items() if k != "answers"} | {"answer": answer}
    key = next((k for k in _CHOICES if isinstance(line.get(k), list) and line[k]), None)
    if key is None or not all(isinstance(line.get(k), str) for k in ("question", "answer")):
        return line
    choices, answer = [str(choice) for choice in line[key]], line["answer"].strip()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    if answer in choices:
        index = choices.index(answer)
    elif answer.isdecimal() and int(answer) < len(choices):
        index = int(answer)
    elif len(answer) == 1 and answer.upper() in letters:
        index = letters.index(answer.upper())
    else:
        raise UserError(
            where, f"the answer {short(answer)} to {len(choices)} {key}",
            "one of them, its number from 0, or its letter from A", "Correct the answer.",
        )  # fmt: skip
    listed = [f"{letter}. {choice}" for letter, choice in zip(letters, choices)]
    notes.said[f"{key!r} stand below the question, the answer is the chosen one"] += 1
    rest = {k: v for k, v in line.items() if k != key}
    return rest | {"question": "\n".join([line["question"], *listed]), "answer": choices[index]}


def _unpacked(line: dict) -> dict:
    """The line, a conversation in it that is packed as a text of JSON or as lists by key as turns,
    and lists of pictures and texts of which one stands at each place as parts."""
    for key in conversation.LISTS:
        value = line.get(key)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                line = line | {key: text.DECODER.decode(value)}
            except (ValueError, RecursionError):
                continue  # what is wrong is said of the key
        elif isinstance(value, dict) and _are_columns(value):
            line = line | {key: [dict(zip(value, of)) for of in zip(*value.values())]}
    both = {key: line[key] for key in ("texts", "images") if key in line}
    if len(both) == 2 and _are_columns(both):
        places = list(zip(*both.values()))
        if places and all((words is None) != (image is None) for words, image in places):
            parts = [{"text": t} if t is not None else {"image": i} for t, i in places]
            return {k: v for k, v in line.items() if k not in both} | {"parts": parts}
    return line


def _are_columns(value: dict) -> bool:
    lists = list(value.values())
    return all(isinstance(x, list) for x in lists) and len(set(map(len, lists))) == 1


def _as_messages(line: dict, folder: Path, notes: Notes) -> dict:
    """The line, an edit of it or two lists of turns as `messages`; others as they are."""
    talks = conversation.key_of(line)
    if talks in conversation.LISTS:
        return line
    # Beside a question and its answer a source is where these are from.
    if drawn := drawn_of(line.keys() - {"source"} if talks else line):
        *shown, asked, result = (line[key] for key in drawn)
        what = "an edit" if shown else "a drawing"
        return _with_turns(line, _edit(*shown or [[]], asked, result), drawn, what, notes)
    for asks, answers, more in conversation.PAIRS:
        if is_picture(line.get(answers), folder) and isinstance(line.get(asks), str):
            beside = line.get(more) or ""
            seen = [beside] if is_picture(beside, folder) else []
            words = "\n".join(text for text in (line[asks], *([] if seen else [beside])) if text)
            read = tuple(key for key in (asks, more, answers) if key)
            what = "an edit" if seen else "a drawing"
            return _with_turns(line, _edit(seen, words, line[answers]), read, what, notes)
    both = ("prompt", "completion")
    if all(isinstance(line.get(key), list) for key in both):  # as trl has conversations
        return _with_turns(line, [*line["prompt"], *line["completion"]], both, "turns", notes)
    asks = ("question", "answer")
    if all(key in line for key in asks) and not line.keys() & {"image", "images", "messages"}:
        turns = [
            {"role": "user", "content": line["question"]},
            {"role": "assistant", "content": line["answer"]},
        ]
        return _with_turns(line, turns, asks, "a question without a picture", notes)
    return line


def _edit(shown: Any, asked: Any, result: Any) -> list[dict]:
    """Turns in which pictures are shown, if there are any, and one is drawn."""
    asked = asked[0] if isinstance(asked, list) and asked else asked
    pictures = [{"type": "image", "image": one} for one in conversation.listed(shown)]
    said = [*pictures, {"type": "text", "text": asked}]
    drawn = [{"type": "image", "image": result}]
    return [{"role": "user", "content": said}, {"role": "assistant", "content": drawn}]


def _with_turns(
    line: dict, turns: list[dict], read: tuple[str, ...], what: str, notes: Notes
) -> dict:
    notes.forms[f"{', '.join(read)!r} ({what})"] += 1
    kept = {"id", "meta"} | ({"images", "image"} if what == "turns" else set())
    notes.unread.update(key for key in line if key not in kept.union(read))
    return {key: value for key, value in line.items() if key in kept} | {"messages": turns}
