"""One small interface to text tokenizers, whichever library reads the file.

Text from users never becomes a special id: `encode` returns ordinary ids whatever the text says,
and special tokens enter a sequence as ids that rendering puts there.
"""

import filecmp
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import atomic_file
from unijax.core.json_files import quoted, shown
from unijax.core.paths import is_address, shipped
from unijax.core.vocab import SpecialIds
from unijax.data import hf_tokens, special_tokens
from unijax.data.special_tokens import SpecialTokens


@runtime_checkable
class Backend(Protocol):
    """What a library must offer. `encode` and `decode` know nothing of special tokens."""

    files: dict[str, Path]  # name in a saved directory -> file it is copied from
    size: int  # ids are below this
    control: dict[str, int]  # tokens that the file itself marks as special

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def piece(self, token_id: int) -> str | None: ...

    def lookup(self, token: str) -> int | None: ...


class Tokenizer:
    """Text to ids and back.

    Attributes:
      special: ids of the tokens that rendering and sampling need.
      tokens: every special token -> its id, role names and the like included.
      vocab_size: the least number of embedding rows that holds every id.
    """

    def __init__(self, where: str, backend: Backend, special: SpecialTokens):
        self.where = where
        self._backend = backend
        self.tokens = {**backend.control, **_resolve(where, backend, special)}
        special_tokens.check_ids(where, self.tokens)  # or what `save` writes could not be read
        self.special = SpecialIds(**{role: self.tokens[t] for role, t in special.names.items()})
        self._names = dict(special.names)
        self._forbidden = frozenset(self.tokens.values())
        self._pieces = {token_id: token for token, token_id in self.tokens.items()}
        longest_first = sorted(self.tokens, key=len, reverse=True)
        self._literal = re.compile("(?=" + "|".join(map(re.escape, longest_first)) + ")")
        self.vocab_size = max(backend.size, max(self._forbidden) + 1)

    def encode(self, text: str) -> list[int]:
        """Ids of the text as it stands: nothing is put before or after it, nothing is special."""
        _check_unicode(text)
        ids = self._backend.encode(text)
        if self._forbidden.isdisjoint(ids):
            return ids
        # The text spells a special token. Cut behind its first character, so that no part does; a
        # library that rewrites characters first (NFKC) may need every character apart.
        for parts in (self._cut(text), list(text)):
            ids = [token_id for part in parts for token_id in self._backend.encode(part)]
            if self._forbidden.isdisjoint(ids):
                return ids
        found = next(token_id for token_id in ids if token_id in self._forbidden)
        raise UserError(
            self.where,
            f"text that becomes {self._pieces[found]!r}, cut to characters as it is",
            "a tokenizer whose special tokens are not ordinary pieces",
            "Give the special token an id of its own.",
        )

    def caption(self, text: str, length: int) -> list[int]:
        """What a text tower reads: of `length` ids at most."""
        return self.encode(text)[:length]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids. Special tokens say nothing, and ids beyond the file's own neither."""
        ordinary = [i for i in map(int, ids) if i not in self._forbidden and i < self._backend.size]
        return self._backend.decode(ordinary)

    def piece(self, token_id: int) -> str:
        """One token as it is written in the vocabulary, special or not."""
        piece = self._pieces.get(token_id)
        if piece is None and token_id < self._backend.size:
            piece = self._backend.piece(token_id)
        return f"<{token_id}>" if piece is None else piece

    def save(self, directory: str | Path) -> None:
        """Writes what `load` reads."""
        directory = Path(directory)
        for name, path in self._backend.files.items():
            if path.resolve() != (directory / name).resolve():
                with atomic_file(directory / name) as temporary:
                    shutil.copyfile(path, temporary)
        special = SpecialTokens(self._names, self.tokens)
        special_tokens.write(directory / special_tokens.FILE_NAME, special)

    def is_saved(self, directory: str | Path) -> bool:
        """Whether the directory holds this tokenizer, whole."""
        directory = Path(directory)
        listed = special_tokens.text(SpecialTokens(self._names, self.tokens))
        try:
            return (directory / special_tokens.FILE_NAME).read_text() == listed and all(
                filecmp.cmp(path, directory / name, shallow=False)
                for name, path in self._backend.files.items()
            )
        except (OSError, ValueError):
            return False

    def _cut(self, text: str) -> list[str]:
        cuts = [match.start() + 1 for match in self._literal.finditer(text)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)]) if a < b]


def load(path: str | Path, special: str | Path | None = None) -> Tokenizer:
    """Loads a tokenizer from a directory, a sentencepiece `.model` or a `tokenizer.json`.

    Args:
      path: the file, or a directory with `tokenizer.model` or `tokenizer.json` in it.
      special: a special_tokens.json; by default the one beside the file, else what the files of
        Hugging Face beside it say (`data.hf_tokens`).

    Raises:
      UserError: a missing or unreadable file, or a special token without an id.
    """
    path = storage.here(path) if is_address(path) else shipped(path)
    file = _find(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            str(path),
            "no such file",
            "a directory with tokenizer.model or tokenizer.json, or one of these files",
            "Correct the path of the tokenizer.",
        )
    try:
        return _load(file, None if special is None else Path(special))
    except UserError:
        raise
    except BaseException as error:  # libraries raise what they like, and panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = f"a tokenizer that cannot be read ({shown(str(error) or type(error).__name__)})"
        raise UserError(str(file), found, "one that is whole", "Fetch it again.") from error


def _load(file: Path, special: Path | None) -> Tokenizer:
    if special is not None:
        tokens = special_tokens.read(special)
    elif (file.parent / special_tokens.FILE_NAME).exists():
        tokens = special_tokens.read(file.parent / special_tokens.FILE_NAME)
    else:
        tokens = hf_tokens.read(file.parent, hf_tokens.vocabulary(file))
    # The libraries are imported where they are used: nobody needs both.
    if file.suffix == ".json":
        from unijax.data.json_tokenizer import JsonBackend

        tokenizer = Tokenizer(str(file), JsonBackend(file, tokens), tokens)
    else:
        from unijax.data.sentencepiece_tokenizer import SentencePieceBackend

        tokenizer = Tokenizer(str(file), SentencePieceBackend(file), tokens)
    tokenizer.decode(tokenizer.encode("A text of 2 words."))  # what fails later fails here
    return tokenizer


@runtime_checkable
class Ids(Protocol):
    """What a table of ids has to hold."""

    where: str
    vocab_size: int


def check_vocab(tokenizer: Ids, vocab_size: int) -> None:
    """Raises a UserError where the tokenizer has ids that a table of `vocab_size` rows lacks."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            tokenizer.where,
            f"ids up to {tokenizer.vocab_size - 1}",
            f"ids below the model's vocab_size, {vocab_size}",
            "Use the model's own tokenizer, or a model with a larger vocab_size.",
        )


def _check_unicode(text: str) -> None:
    """Raises a UserError where the text holds half a character, as JSON and shells may give."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {text[max(error.start - 20, 0) : error.start + 20]!a}",
            f"half of a surrogate pair, {text[error.start]!a}, at character {error.start}",
            "text that UTF-8 can write",
            "Take it out.",
        ) from None


def _find(directory: Path) -> Path:
    for name in ("tokenizer.model", "tokenizer.json"):
        if (directory / name).is_file():
            return directory / name
    return directory / "tokenizer.model"


def _resolve(where: str, backend: Backend, special: SpecialTokens) -> dict[str, int]:
    """Ids of the special tokens, those of the file checked against those of the list."""
    tokens = {}
    for token, token_id in special.tokens.items():
        own = backend.lookup(token)
        if token_id is None and own is None:
            raise UserError(
                where,
                f"no token {quoted(token)}",
                f"the special tokens of {special.listed}, or their ids there",
                f"Give {quoted(token)} an id in {special.listed}.",
            )
        if token_id is not None and own is not None and own != token_id:
            raise UserError(
                where,
                f"id {own} for {quoted(token)}",
                f"id {token_id}, which {special.listed} says",
                "The list belongs to another tokenizer: use the right one.",
            )
        if own is None and token_id < backend.size and backend.piece(token_id) is not None:
            raise UserError(
                where,
                f"id {token_id} taken by {quoted(backend.piece(token_id))}",
                f"a free id for {quoted(token)}",
                f"Correct the id in {special.listed}.",
            )
        tokens[token] = token_id if own is None else own
    return tokens
