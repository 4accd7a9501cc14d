"""A file of JSON that is one object: COCO's captions and categories, or a list of records in it."""

import codecs
import collections
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.core.files import open_plain
from unijax.core.telling import tell_once
from unijax.data.user import conversation, text
from unijax.data.user.faults import Faults
from unijax.data.user.notes import Notes
from unijax.data.user.picture import short
from unijax.data.user.record import KEYS, to_record
from unijax.data.user.records import FactsOf, UserRecords

_MOST = 2**30  # bytes of such a file: it is held whole


def open_one_object(path: Path, faults: Faults | None = None) -> UserRecords | None:
    """The records of a `.json` that is one object; None where it is something else.

    Args:
      path: COCO's `images` and `annotations` (with `caption`, or with `category_id` and
        `categories`), or any object that has one list of objects, which are the records.
      faults: how mistakes of single records are taken.

    Raises:
      UserError: naming the file and the record.
    """
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    with text.reading(path, "a JSON file"), open_plain(path) as file:
        first = file.readline(text.MAX_LINE + 1)
        if not first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            return None
        rest = file.read(_MOST)
        if rest.strip() and _decoded(first) is not None:  # a line of several
            return None
    if len(rest) == _MOST:
        raise text.too_long(str(path), _MOST)
    found = _records(path, _decoded(first + rest))
    return _Records(path, *found, faults) if found else None


def _decoded(content: bytes) -> dict | None:
    try:
        return text.DECODER.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # whoever reads lines says what is wrong
        return None


def _records(path: Path, whole: dict | None) -> tuple[list[tuple[str, dict]], str, Path] | None:
    """(place, line) of every record, what they were read from, and the pictures' folder."""
    if whole is None:
        return None
    if isinstance(whole.get("images"), list) and isinstance(whole.get("annotations"), list):
        lines = _of_coco(whole, path)
        return lines, "COCO", _folder(path, lines)
    lists = {key: value for key, value in whole.items() if _are_objects(value)}
    others = [value for key, value in whole.items() if key not in lists]
    if len(lists) != 1 or any(isinstance(value, list) for value in others):
        return None
    ((key, items),) = lists.items()
    if key in KEYS or key in conversation.KEYS:  # of one record
        return None
    return (
        [(f"{path}: {key}[{index}]", item) for index, item in enumerate(items)],
        f"the list {short(key)}",
        path.parent,
    )


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def _of_coco(whole: dict, path: Path) -> list[tuple[str, dict]]:
    """A line for each picture of which anything is said."""
    names = {
        str(item.get("id")): item.get("name")
        for item in whole.get("categories") or ()
        if isinstance(item, dict)
    }
    captions, keywords = collections.defaultdict(list), collections.defaultdict(dict)
    for index, item in enumerate(whole["annotations"]):
        if not isinstance(item, dict) or "image_id" not in item:
            raise UserError(
                f"{path}: annotations[{index}]", short(item), "an object with 'image_id'",
                "Repair the file.",
            )  # fmt: skip
        of = str(item["image_id"])
        if item.get("caption") is not None:
            captions[of].append(item["caption"])
        elif name := names.get(str(item.get("category_id"))):
            keywords[of][name] = None  # each once, in order
    lines = []
    for index, item in enumerate(whole["images"]):
        where = f"{path}: images[{index}]"
        if not isinstance(item, dict) or not {"id", "file_name"} <= item.keys():
            raise UserError(
                where, short(item), "an object with 'id' and 'file_name'", "Repair the file."
            )
        of = str(item["id"])
        line = {"id": of, "image": item["file_name"]}
        line |= {"captions": captions.pop(of)} if of in captions else {}
        line |= {"keywords": list(keywords.pop(of))} if of in keywords else {}
        if len(line) > 2:
            lines.append((where, line))
    if lost := [*captions, *keywords]:
        raise UserError(
            f"{path}: annotations", f"image_id {lost[0]}, which is no picture",
            "an id of those in 'images'", "Repair the file.",
        )  # fmt: skip
    if not lines:
        raise UserError(
            str(path), "annotations without 'caption', or 'category_id' of 'categories'",
            "captions or categories of pictures", "Give a file that has them.",
        )  # fmt: skip
    return lines


def _folder(path: Path, lines: list[tuple[str, dict]]) -> Path:
    """Where the pictures are: beside the file, or as COCO lays them out."""
    split = path.stem.rpartition("_")[2]  # captions_train2017.json
    folders = [path.parent / inside for inside in ("", "images", f"../{split}", split, "../images")]
    first = str(lines[0][1]["image"])
    return next((folder for folder in folders if (folder / first).is_file()), path.parent)


class _Records(UserRecords):
    """Records whose lines are held."""

    def __init__(
        self,
        path: Path,
        lines: list[tuple[str, dict]],
        form: str,
        folder: Path,
        faults: Faults | None,
    ):
        faults = Faults() if faults is None else faults
        facts, notes = FactsOf(), Notes()
        self._folder, self._loose, self._lines = folder, form == "COCO", []
        for where, line in lines:
            if where in faults.left_out:
                continue
            try:
                facts.add(to_record(line, where, folder, notes, self._loose))
                self._lines.append((where, line))
            except UserError as error:
                faults.tell(where, error)
        self.facts = facts.done()
        notes.forms[form] += len(self._lines)
        said = notes.line(path, len(self._lines))
        tell_once(said, said)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict:
        where, line = self._lines[index]
        return to_record(line, where, self._folder, Notes(), self._loose)
