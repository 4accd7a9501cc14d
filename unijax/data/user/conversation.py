"""Conversations in the forms of the field, to turns of texts and pictures.

LLaVA's `conversations`, the `messages` of OpenAI and ms-swift, ShareGPT's pairs, and a question and
its answer under the names of instruction tuning. A picture stands where a marker in a text is, or
where a part of the content holds or names it: in a user's turn to be understood, in the assistant's
to be drawn.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unijax.core.errors import UserError
from unijax.data.templates import IMAGE_MARKER
from unijax.data.user.notes import Notes
from unijax.data.user.picture import Picture, short

# Keys that hold a list of turns, or of pairs of them.
LISTS = ("messages", "conversations", "conversation", "texts")
# A question and an answer: their keys, and one that adds to the question.
PAIRS = (
    ("query", "response", ""),
    ("instruction", "output", "input"),
    ("instruction", "response", "context"),
    ("prompt", "completion", ""),
    ("prompt", "response", ""),
    ("question", "response", ""),
    ("input", "output", ""),
    ("prefix", "suffix", ""),
)
_SYSTEM = ("system", "system_prompt")
_BESIDE = (*_SYSTEM, "history", "images", "image")  # what else a conversation reads of its line
KEYS = {*LISTS, *itertools.chain(*PAIRS), *_BESIDE} - {""}

MARKERS = (IMAGE_MARKER, "<image>")
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_ASKS, _ANSWERS = ("human", "user", "query", "input"), ("assistant", "gpt", "response", "output")
_SHOWS, _LEARNED = ("images", "image"), ("loss", "weight", "train")
_NOTHING = (None, "", [])
_SHOWN = 20  # roles of a conversation, in a message


@dataclasses.dataclass(frozen=True)
class _Next:
    """A part of a content that stands for the next picture of its line, or for one by number."""

    index: int | None = None


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A picture where it stands: a reference to it."""

    reference: Any


@dataclasses.dataclass
class _Turn:
    role: str
    parts: list[Any]  # texts, _Shown and _Next
    shows: list[Any]  # references of the turn's own
    learned: bool = True

    def count(self, marker: str) -> int:
        return sum(part.count(marker) for part in self.parts if isinstance(part, str))


def key_of(line: dict) -> str:
    """The key, or keys, under which a line has a conversation; "" for none."""
    for key in LISTS:
        if isinstance(line.get(key), list) and any(not isinstance(x, str) for x in line[key]):
            return key
    for asks, answers, _ in PAIRS:
        if line.get(asks) is not None and line.get(answers) is not None:
            return f"{asks}, {answers}"
    return ""


def keys(talks: str) -> set[str]:
    """The keys of a line that belong to its conversation under `talks`."""
    pairs = [pair for pair in PAIRS if ", ".join(pair[:2]) == talks]
    return {talks, *_BESIDE} if not pairs else {*pairs[0], *_BESIDE}


def read(
    line: dict, pictures: Sequence[Any], where: str, picture: Callable[[Any], Picture], notes: Notes
) -> dict:
    """The fields of a record: `messages`, and `drawings`, their number, where some are to be drawn.

    Args:
      line: with a conversation under `key_of(line)`.
      pictures: references, in the order of the markers.
      where: the record, for messages.
      picture: from a reference to what reads it.
      notes: takes what was understood.

    Raises:
      UserError: naming the record.
    """
    turns = _turns(line, where, notes)
    for turn in turns:
        if turn.shows:
            _place([turn], turn.shows, where, notes)
    _place([turn for turn in turns if not turn.shows], pictures, where, notes)
    turns = [turn for turn in turns if turn.role != "system" or _says_something(turn)]
    turns = _from_question_to_answer(turns, notes)
    _check(turns, where)
    messages, drawings = [], 0
    for turn in turns:
        content = _content(turn, picture)
        message = {"role": turn.role, "content": content}
        if not turn.learned:
            message["learned"] = False
        messages.append(message)
        if turn.role == "assistant" and isinstance(content, list):
            drawings += sum(not isinstance(part, str) for part in content)
    return {"messages": messages} | ({"drawings": drawings} if drawings else {})


def _from_question_to_answer(turns: list[_Turn], notes: Notes) -> list[_Turn]:
    """Without what the assistant says before the first question, and questions without an answer.

    ShareGPT's conversations were cut out of longer ones.
    """
    first = int(bool(turns) and turns[0].role == "system")
    begin, end = first, len(turns)
    while begin < end and turns[begin].role == "assistant":
        begin += 1
    while begin < end and turns[end - 1].role == "user":
        end -= 1
    if begin == end:  # nothing would be left: what is wrong is said of all of it
        return turns
    if begin > first:
        notes.said["what the assistant says before the first question is left out"] += 1
    if end < len(turns):
        notes.said["a last question without an answer is left out"] += 1
    return [*turns[:first], *turns[begin:end]]


def _content(turn: _Turn, picture: Callable[[Any], Picture]) -> str | list[str | Picture]:
    """Text, or where there is a picture, texts and pictures in order."""
    parts: list[str | Picture] = []
    for part in turn.parts:
        if not isinstance(part, str):
            parts.append(picture(part.reference))
        elif parts and isinstance(parts[-1], str):
            parts[-1] += part
        elif part:
            parts.append(part)
    return parts if any(not isinstance(part, str) for part in parts) else "".join(parts)


def _turns(line: dict, where: str, notes: Notes) -> list[_Turn]:
    found = key_of(line)
    if found in LISTS:
        items = line[found]
    else:
        asks, answers, more = next(pair for pair in PAIRS if ", ".join(pair[:2]) == found)
        question = "\n".join(_said(line[key], key, where) for key in (asks, more) if line.get(key))
        items = [*(line.get("history") or ()), {"user": question, "assistant": line[answers]}]
    turns: list[_Turn] = []
    for item in items:
        turns += _of_item(item, where, notes)
    system = _first(_SYSTEM, line)
    if system and line[system]:
        own = _turn("system", line[system], where)
        if not (turns and turns[0].role == "system"):
            turns.insert(0, own)
        elif turns[0].parts != own.parts:
            notes.said[f"{system!r} gives way to the system message in the turns"] += 1
    return turns


def _said(text: Any, key: str, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(where, f"{key}: {short(text)}", "text", f"Correct {key!r}.")
    return text


def _of_item(item: Any, where: str, notes: Notes) -> list[_Turn]:
    """A turn, or a pair of them."""
    if isinstance(item, list | tuple) and len(item) == 2:
        item = {"user": item[0], "assistant": item[1]}
    if not isinstance(item, dict):
        raise _no_turn(where, short(item), ())
    item = {key: value for key, value in item.items() if value is not None}
    role, content = _first(_ROLE, item), _first(_CONTENT, item)
    asks, answers = _first(_ASKS, item), _first(_ANSWERS, item)
    if role is None and asks and answers:
        _note_unread(item, (asks, answers), notes)
        return [_turn("user", item[asks], where), _turn("assistant", item[answers], where)]
    shows, learned = _first(_SHOWS, item), _first(_LEARNED, item)
    if role is None or (content is None and shows is None):
        raise _no_turn(where, f"a turn with {', '.join(map(short, item)) or 'nothing'}", item)
    _note_unread(item, (role, content, shows, learned), notes)
    turn = _turn(_role(item[role], where, notes), item.get(content, ""), where)
    turn.shows = listed(item.get(shows))
    turn.learned = learned is None or _is_learned(learned, item[learned], where)
    return [turn]


def _first(keys: Sequence[str], item: dict) -> str | None:
    return next((key for key in keys if key in item), None)


def _no_turn(where: str, found: str, keys: Iterable[str]) -> UserError:
    near = [
        match
        for key in keys
        if key not in _ROLE + _CONTENT and len(key) < 40
        for match in difflib.get_close_matches(key, _ROLE + _CONTENT, 1)
    ]
    return UserError(
        where,
        found,
        'turns, {"role": ..., "content": ...} or {"from": ..., "value": ...}',
        f"Did you mean {near[0]!r}?" if near else "Correct the conversation.",
    )


def _note_unread(item: dict, read: Sequence[str | None], notes: Notes) -> None:
    notes.unread.update(f"{short(key)} of turns" for key in item if key not in read)


def _role(word: Any, where: str, notes: Notes) -> str:
    plain = str(word).strip().removeprefix("<|").removesuffix("|>").lower()
    if plain not in _ROLES:
        raise UserError(
            where, f"the role {short(word)}", f"one of {', '.join(_ROLES)}", "Correct the role."
        )
    if _ROLES[plain] != word:
        notes.said[f"{word} is the {_ROLES[plain]}"] += 1
    return _ROLES[plain]


def _is_learned(key: str, value: Any, where: str) -> bool:
    if value in (True, "1", "1.0", 1):
        return True
    if value in (False, "0", "0.0", 0):
        return False
    raise UserError(
        where, f"{key}: {short(value)} of a turn", "true or false, 1 or 0", "Correct it."
    )


def listed(references: Any) -> list[Any]:
    """References to pictures, of one or of several."""
    if references in _NOTHING:
        return []
    return list(references) if isinstance(references, list | tuple) else [references]


def _turn(role: str, content: Any, where: str) -> _Turn:
    if isinstance(content, str):
        return _Turn(role, [content], [])
    if not isinstance(content, list):
        found = f"{short(content)} as the content of a turn"
        raise UserError(where, found, "text, or a list of parts", "Correct the conversation.")
    return _Turn(role, _joined([_part(item, where) for item in content]), [])


def _joined(parts: Sequence[Any]) -> list[Any]:
    """Parts as the template of transformers for Janus joins them: a picture is on its own line."""
    joined: list[Any] = []
    for before, part in itertools.pairwise([None, *parts]):
        if before is not None:
            pictures = [x for x in (before, part) if not isinstance(x, str)]
            joined.append("\n" * len(pictures) or " ")
        joined.append(part)
    return joined


# Types of the parts of a content, and the keys that hold what they are.
_TEXTS = ("text", "input_text", "output_text")
_IMAGES = ("image", "image_url", "input_image")
_REFERENCES = ("image", "image_url", "url", "path", "bytes", "source", "base64", "data")


def _part(item: Any, where: str) -> Any:
    """Text, _Shown or _Next."""
    if isinstance(item, str):
        return item
    if callable(item):
        return _Shown(item)
    if isinstance(item, dict):
        item = {key: value for key, value in item.items() if value is not None}
        kind = item.get("type") or next((k for k in ("text", *_IMAGES) if k in item), None)
        if kind in _TEXTS and isinstance(item.get("text"), str):
            return item["text"]
        if kind in _IMAGES:
            key = _first(_REFERENCES, item)
            if key is not None:
                return _Shown(_reference(key, item[key]))
            index = str(item.get("index", ""))
            return _Next(int(index) if index.isdecimal() and len(index) < 10 else None)
    raise UserError(
        where,
        f"{short(item)} as a part of a content",
        'a text or a picture: {"type": "text", "text": ...}, {"type": "image", "image": ...} or '
        '{"type": "image_url", "image_url": {"url": ...}}',
        "Correct the part, or take it out.",
    )


def _reference(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        inner = _first(_REFERENCES, value)
        return value if inner is None else _reference(inner, value[inner])
    if key in ("base64", "data") and isinstance(value, str) and not value.startswith("data:"):
        return f"data:;base64,{value}"
    return value


def _place(turns: list[_Turn], references: Sequence[Any], where: str, notes: Notes) -> None:
    """Puts the pictures where turns have markers for them.

    Markers in the assistant's words stand for pictures, to be drawn, where there are as many
    pictures as markers in all; where there are as many as in the users' words, the assistant's are
    words.
    """
    spoken = [turn for turn in turns if turn.role != "system"]
    parts = [part for turn in spoken for part in turn.parts]
    slots = sum(isinstance(part, _Next) for part in parts)
    waiting = list(references)
    shown = [part.reference for part in parts if isinstance(part, _Shown)]
    if shown == waiting:  # named where they stand, and once more in a list
        waiting = []

    if slots and all(part.index is not None for part in parts if isinstance(part, _Next)):
        _by_number(spoken, waiting, where)
        return

    def count(marker: str, roles: Sequence[str]) -> int:
        return sum(turn.count(marker) for turn in spoken if turn.role in roles)

    for marker in MARKERS:
        for roles in (("user", "assistant"), ("user",)):
            found = count(marker, roles)
            if waiting and found and found + slots == len(waiting):
                if found == 1 and "assistant" in roles:
                    _check_alone(spoken, marker, where)
                _fill(spoken, waiting, marker, roles)
                if marker != IMAGE_MARKER:
                    notes.said[f"{marker} is the next picture"] += 1
                return
    asked = [turn for turn in spoken if turn.role == "user"]
    markers = [marker for marker in MARKERS if count(marker, ("user", "assistant"))]
    alone = [turn for turn in spoken if "".join(map(str, turn.parts)).strip() in MARKERS]
    if not waiting and not shown:
        _check_lost(spoken, where)
    missing = any(count(m, ("user",)) for m in MARKERS) or alone
    if slots == len(waiting) and (waiting or not missing):
        _fill(spoken, waiting)
    elif waiting and not (shown or slots or markers) and asked:
        _check_markers(asked, where)
        asked[0].parts = _joined([*map(_Shown, waiting), "".join(asked[0].parts)])
        notes.said["pictures without a marker come before the first question"] += 1
    elif waiting and not (shown or slots or markers) and turns[0].role == "assistant":
        words = "".join(turns[0].parts).rstrip()
        turns[0].parts = _joined([*([words] if words else []), *map(_Shown, waiting)])
    else:
        marker = markers[0] if markers else IMAGE_MARKER
        raise UserError(
            where,
            f"{len(waiting)} images and {count(marker, ('user', 'assistant')) + slots} markers",
            f"one {marker} in the messages for each image",
            "Put the marker where each image belongs.",
        )


def _check_alone(turns: list[_Turn], marker: str, where: str) -> None:
    """Raises a UserError where the one marker may be a word that the assistant says.

    "The text says <image> at the top", of the user's picture, would have that picture drawn.
    """
    for turn in turns:
        for part in turn.parts if turn.role == "assistant" else ():
            before, found, after = part.partition(marker) if isinstance(part, str) else ("",) * 3
            words = before.rpartition("\n")[2].strip() and after.partition("\n")[0].strip()
            if found and words:
                raise UserError(
                    where,
                    f"one picture, and {marker} amidst the assistant's words",
                    f"{marker} on a line of its own there for a picture to be drawn, or in the "
                    "user's turn for one to be seen",
                    "Put it where the picture belongs.",
                )


def _by_number(turns: list[_Turn], waiting: list[Any], where: str) -> None:
    """Puts pictures where their numbers stand, each once or more often."""
    numbers = {part.index for turn in turns for part in turn.parts if isinstance(part, _Next)}
    if numbers != set(range(len(waiting))):
        raise UserError(
            where,
            f"{len(waiting)} images, and parts that are the images {sorted(numbers)[:10]}",
            "parts whose index counts the images from 0, each of them somewhere",
            "Correct the indices.",
        )
    for turn in turns:
        turn.parts = [
            _Shown(waiting[part.index]) if isinstance(part, _Next) else part for part in turn.parts
        ]


# Of other models' markers, as Qwen, InternLM and the like have them, where a picture has no place.
_LIKE_MARKERS = re.compile(
    r"<\|?(?:img|image|picture|vision_start)[\w\s-]{0,20}\|?>|\[(?:img|image)\]", re.IGNORECASE
)
# Where there is no picture at all: a path between Qwen-VL's tags, and marks that are no words.
_LOST = re.compile(r"<img>[^<>\n]+</img>|<\|(?:vision_start|image_pad|image(?:_\d+)?)\|>")


def _in_words(pattern: re.Pattern, turns: list[_Turn]) -> str | None:
    """The first words of turns that look so."""
    texts = (part for turn in turns for part in turn.parts if isinstance(part, str))
    return next((match[0] for match in map(pattern.search, texts) if match), None)


def _check_lost(turns: list[_Turn], where: str) -> None:
    """Raises a UserError for another model's marker in a conversation without pictures."""
    if lost := _in_words(_LOST, turns):
        raise UserError(
            where, f"no picture, and the words {short(lost)}",
            f"pictures under 'images', and {' or '.join(MARKERS)} where each belongs",
            "Write them so, or take the words out.",
        )  # fmt: skip


def _check_markers(turns: list[_Turn], where: str) -> None:
    """Raises a UserError for a marker that nobody here reads: the picture belongs there."""
    if like := _in_words(_LIKE_MARKERS, turns):
        raise UserError(
            where,
            f"a picture without a marker, and the words {short(like)}",
            f"{' or '.join(MARKERS)} where the picture belongs",
            "Write it there, or take the words out.",
        )


def _fill(
    turns: list[_Turn], waiting: list[Any], marker: str = "", roles: Sequence[str] = ()
) -> None:
    """Puts what waits, in order, into places that are kept for it and where a marker stands."""
    for turn in turns:
        parts: list[Any] = []
        for part in turn.parts:
            if isinstance(part, _Next):
                parts.append(_Shown(waiting.pop(0)))
            elif isinstance(part, str) and turn.role in roles:
                first, *rest = part.split(marker)
                parts.append(first)
                for text in rest:
                    parts += [_Shown(waiting.pop(0)), text]
            else:
                parts.append(part)
        turn.parts = parts


def _says_something(turn: _Turn) -> bool:
    return any(not isinstance(part, str) or part.strip() for part in turn.parts)


def _check(turns: list[_Turn], where: str) -> None:
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        first = ", ".join(roles[:_SHOWN]) + f" and {len(roles) - _SHOWN} more" * (
            len(roles) > _SHOWN
        )
        raise UserError(
            where,
            f"roles {first or 'of no turn'}",
            "user and assistant in turn, the assistant last, a system message at most at the front",
            "Correct the roles.",
        )
    for turn in turns:
        drawn = any(not isinstance(part, str) for part in turn.parts)
        if not _says_something(turn):
            raise UserError(where, f"an empty turn of the {turn.role}", "text", "Fill it.")
        if drawn and turn.role == "system":
            found = "a picture in the system message"
            raise UserError(where, found, "text", "Move it to the first question.")
        if drawn and turn.role == "assistant" and not turn.learned:
            raise UserError(
                where,
                "a picture in a turn of the assistant that is not learned",
                "pictures to be learned there",
                "Move it to the user's turn, where it is seen, not drawn.",
            )
    if not any(turn.learned for turn in turns if turn.role == "assistant"):
        raise UserError(where, "no turn that is learned", "one at least", "Take the line out.")
