"""Image codes among the ids of the text table: as released by name, here in order.

A released tokenizer calls the id of code 4711 `IMGIMGEHBBZ`: the digits as letters from A to J
(`chameleon/inference/vocab.py` of Meta's release, `ChameleonImageVocabularyMapping` of
transformers). Nothing says that these ids are in the order of the codes. Here code k is the id
`first_code + k`, so rows of the embedding and of the head are permuted on the way in and back on
the way out.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.data.hf_tokens import TOKENIZER_BYTES
from unijax.interop.table import Entry, Transform

_START, _DIGITS = "IMGIMG", "ABCDEFGHIJ"
_NAME = re.compile(rf"{_START}([{_DIGITS}]{{1,7}})Z")


def name_of(code: int) -> str:
    """What the id of an image code is called."""
    return f"{_START}{''.join(_DIGITS[int(d)] for d in str(code))}Z"


@dataclasses.dataclass(frozen=True)
class Codes:
    """Where the ids of image codes are on the other side.

    Attributes:
      first: the least.
      ids: of code 0, 1, ...; all of those from `first` on, in any order.
    """

    first: int
    ids: np.ndarray

    @classmethod
    def of(cls, vocabulary: Mapping[str, object], where: str) -> "Codes":
        """By the names of a vocabulary.

        Raises:
          UserError: if codes are missing, or their ids do not stand together.
        """
        found = {m[1]: i for name, i in vocabulary.items() if (m := _NAME.fullmatch(str(name)))}
        codes = {int("".join(str(_DIGITS.index(c)) for c in word)): i for word, i in found.items()}
        ids = [codes.get(k) for k in range(len(found))]
        whole = all(type(i) is int and i >= 0 for i in ids)
        if not ids or not whole or sorted(ids) != list(range(min(ids), min(ids) + len(ids))):
            raise UserError(
                where, f"{len(found)} names of image codes, {quoted(sorted(found)[:3])}",
                f"{name_of(0)} and so on for every code, with ids that stand together",
                "Fetch the file again.",
            )  # fmt: skip
        return cls(min(ids), np.array(ids))

    @classmethod
    def in_order(cls, first: int, count: int) -> "Codes":
        """As they are here."""
        return cls(first, np.arange(first, first + count))

    @property
    def names(self) -> dict[str, int]:
        """Ids by name."""
        return {name_of(code): int(i) for code, i in enumerate(self.ids)}

    def columns(self, width: int) -> np.ndarray:
        """Of each of our ids, the id on the other side."""
        order = np.arange(width)
        order[self.first : self.first + len(self.ids)] = self.ids
        return order

    def permuted(self, entry: Entry) -> Entry:
        """An entry whose foreign tensor has a row for each id."""
        (inner,) = set(entry.transforms)

        def to_ours(x: np.ndarray) -> np.ndarray:
            return inner.to_ours(x[self.columns(len(x))])

        def to_theirs(x: np.ndarray) -> np.ndarray:
            x = inner.to_theirs(x)
            if x.dtype == bool:  # a view of one number, of which the shape is wanted
                return x
            return x[np.argsort(self.columns(len(x)))]

        return dataclasses.replace(entry, transform=Transform(to_ours, to_theirs))


def tokenizer_vocabulary(file: pathlib.Path) -> dict[str, object]:
    """Ids by token of a tokenizer.json, added ones too; empty where there is no such file."""
    if not file.is_file():
        return {}
    content = read_object(file, TOKENIZER_BYTES)
    model, added = content.get("model"), content.get("added_tokens")
    words = model.get("vocab") if isinstance(model, dict) else None
    found = dict(words) if isinstance(words, dict) else {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            found[str(token.get("content"))] = token.get("id")
    return found


def codes_of_run(tokenizer: pathlib.Path, first: int, count: int) -> Codes:
    """By the names that a run's tokenizer has for them; in order, where it has none."""
    vocabulary = tokenizer_vocabulary(tokenizer / "tokenizer.json")
    if not any(_NAME.fullmatch(name) for name in vocabulary):
        return Codes.in_order(first, count)
    codes = Codes.of(vocabulary, str(tokenizer / "tokenizer.json"))
    if (codes.first, len(codes.ids)) != (first, count):
        raise UserError(
            str(tokenizer), f"image codes of {len(codes.ids)} ids from {codes.first} on",
            f"{count} from {first} on, as the model has them", "Give the model's tokenizer.",
        )  # fmt: skip
    return codes
