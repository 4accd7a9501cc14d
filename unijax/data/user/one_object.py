"""A file of JSON that is one object: COCO's captions and categories, or a list of records in it."""

import codecs
import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.core.files import open_plain
from unijax.data.user import conversation, text
from unijax.data.user.faults import Faults
from unijax.data.user.held import Held
from unijax.data.user.notes import Notes
from unijax.data.user.picture import PICTURES, is_picture, short
from unijax.data.user.record import KEYS
from unijax.data.user.records import UserRecords

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
        text.check_encoding(file, path)
        first = file.readline(text.MAX_LINE + 1)
        if not first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            return None
        rest = file.read(_MOST)
    if len(rest) == _MOST:
        raise text.too_long(str(path), _MOST)
    whole = _whole(path, first, rest)
    if whole is None:
        return None
    lines, form, folder = _records(path, whole)
    return Held(path, lines, folder, False, faults, Notes(), form)


def _whole(path: Path, first: bytes, rest: bytes) -> dict | None:
    """The object; None for a line of several, or for a broken one: whoever reads lines says it."""
    if _is_json(first) == bool(rest.strip()):
        return None
    return text.parsed(text.decoded(first + rest, str(path), 1), str(path), _told_by_line(path))


def _is_json(content: bytes) -> bool:
    try:
        text.DECODER.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def _told_by_line(path: Path) -> Callable[[str], Any]:
    def decode(content: str) -> Any:
        try:
            return text.DECODER.decode(content)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{error.lineno}", error.msg, "one object of JSON, or one on each line",
                "Repair the file.",
            ) from None  # fmt: skip

    return decode


_OURS = {*KEYS, *conversation.KEYS}  # which hold lists of one record


def _records(path: Path, whole: dict) -> tuple[list[tuple[str, dict]], str, Path]:
    """(place, line) of every record, what they were read from, and the pictures' folder."""
    if isinstance(whole.get("images"), list) and isinstance(whole.get("annotations"), list):
        lines = _of_coco(whole, path)
        return lines, "COCO", _folder(path, lines)
    if whole and all(Path(str(key)).suffix.lower() in PICTURES for key in whole):
        said = {key: [v] if isinstance(v, str) else v for key, v in whole.items()}
        lines = [(f"{path}: {key}", {"image": key, "captions": v}) for key, v in said.items()]
        return lines, "captions by picture", path.parent
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    items = {key: value for key, value in lists.items() if _are_objects(value)}
    if "images" in items and all("sentences" in item for item in items["images"]):
        return _of_karpathy(items["images"], path), "Karpathy's JSON", path.parent
    if not items.keys() & _OURS:
        if len(items) > 1:
            raise UserError(
                str(path), f"several lists ({', '.join(map(short, items))})", "one list of records",
                "Give a file of each: what is held out would be trained on.",
            )  # fmt: skip
        if len(items) == len(lists) == 1:
            ((key, found),) = items.items()
            lines = [(f"{path}: {key}[{index}]", item) for index, item in enumerate(found)]
            return lines, f"the list {short(key)}", path.parent
    return [(f"{path}:1", whole)], "one object", path.parent


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def _of_coco(whole: dict, path: Path) -> list[tuple[str, dict]]:
    """A line for each picture of which anything is said."""
    named = whole.get("categories")
    names = {
        str(item.get("id")): item.get("name")
        for item in (named if isinstance(named, list) else ())
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
            keywords[of][str(name)] = None  # each once, in order
    lines, seen = [], set()
    for index, item in enumerate(whole["images"]):
        where = f"{path}: images[{index}]"
        named = isinstance(item, dict) and isinstance(item.get("file_name"), str)
        if not named or item.get("id") is None:
            raise UserError(
                where, short(item), "an object with 'id' and 'file_name'", "Repair the file."
            )
        of = str(item["id"])
        if of in seen:
            raise UserError(where, f"the id {of} again", "an id for each", "Repair the file.")
        seen.add(of)
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


def _of_karpathy(images: list[dict], path: Path) -> list[tuple[str, dict]]:
    """Of Karpathy's splits of COCO and Flickr, those to train on."""
    lines = []
    for index, item in enumerate(images):
        if str(item.get("split", "train")) in ("train", "restval"):
            where, said = f"{path}: images[{index}]", item["sentences"]
            names = [name for name in (item.get("filepath"), item.get("filename")) if name]
            if not isinstance(said, list) or not all(isinstance(name, str) for name in names):
                raise UserError(
                    where, short(item), "'filename' and a list of 'sentences'", "Repair the file."
                )
            captions = [s.get("raw") for s in said if isinstance(s, dict)]
            lines.append((where, {"image": "/".join(names), "captions": captions}))
    return lines


def _folder(path: Path, lines: list[tuple[str, dict]]) -> Path:
    """Where the pictures are: beside the file, or as COCO lays them out."""
    split = path.stem.rpartition("_")[2]  # captions_train2017.json
    folders = [path.parent / inside for inside in ("", "images", f"../{split}", split, "../images")]
    first = lines[0][1]["image"]
    return next((folder for folder in folders if is_picture(first, folder)), path.parent)
