"""Lines that say under other names what a conversation says: edits, and turns in two lists."""

from collections.abc import Collection
from typing import Any

from unijax.data.user import conversation
from unijax.data.user.notes import Notes

# As InstructPix2Pix, MagicBrush, UltraEdit, HQ-Edit, SEED-Data-Edit and ControlNet call a picture,
# what to change in it, and the picture that results.
_SHOWN = (
    "input_image", "original_image", "source_image", "source_img", "src_img", "source",
)  # fmt: skip
_ASKED = ("edit_prompt", "edit_instruction", "edit", "instruction", "prompt")
_RESULT = (
    "edited_image", "output_image", "target_image", "edited_img", "target_img", "target",
)  # fmt: skip


def edit_of(keys: Collection[str]) -> tuple[str, str, str] | None:
    """The keys of a picture, of what to change, and of the result; None where one is missing."""
    found = [next((key for key in names if key in keys), "") for names in (_SHOWN, _ASKED, _RESULT)]
    return (found[0], found[1], found[2]) if all(found) else None


def in_words(line: dict, notes: Notes) -> dict:
    """The line, answers of true and false as the words that JSON writes."""

    def word(pair: Any) -> Any:
        if not isinstance(pair, dict) or not isinstance(pair.get("answer"), bool):
            return pair
        notes.said["an answer of true or false is that word"] += 1
        return pair | {"answer": str(pair["answer"]).lower()}

    if isinstance(line.get("questions"), list):
        line = line | {"questions": [word(pair) for pair in line["questions"]]}
    return word(line)


def as_messages(line: dict, notes: Notes) -> dict:
    """The line, an edit of it or two lists of turns as `messages`; others as they are.

    Args:
      line: without nulls.
      notes: takes what was understood.
    """
    if conversation.key_of(line) in conversation.LISTS:
        return line
    edit = edit_of(line)
    if edit and not (edit[0] == "source" and conversation.key_of(line)):
        shown, asked, result = (line[key] for key in edit)
        parts = [{"type": "image", "image": shown}, {"type": "text", "text": asked}]
        drawn = [{"type": "image", "image": result}]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": drawn}]
        return _with_turns(line, turns, edit, "an edit", notes)
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


def _with_turns(
    line: dict, turns: list[dict], read: tuple[str, ...], what: str, notes: Notes
) -> dict:
    notes.forms[f"{', '.join(read)!r} ({what})"] += 1
    kept = {"id", "meta"} | ({"images", "image"} if what == "turns" else set())
    notes.unread.update(key for key in line if key not in kept.union(read))
    return {key: value for key, value in line.items() if key in kept} | {"messages": turns}
