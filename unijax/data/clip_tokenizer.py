"""CLIP's tokenizer: byte pairs within words, all in lower case (arXiv 2103.00020, section 2.4).

Text is cleaned, cut into words and encoded as in OpenAI's `simple_tokenizer.py` and open_clip's
`tokenizer.py`, but that text never becomes a special id: a `<start_of_text>` in it is words.
"""

import html
import lzma
import shutil
from collections.abc import Iterable
from pathlib import Path

import ftfy
import regex
import tokenizers

from unijax.core.errors import UserError
from unijax.core.paths import assets_dir

MERGES_FILE = "merges.txt.xz"
MERGES = 48_894
CONTEXT = 77  # ids of the longest text of every published tower
_WORD = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
_END_OF_WORD = "</w>"


def _byte_letters() -> dict[str, int]:
    """Of each byte the letter that stands for it, in the order of their ids: those that are seen on
    paper stand for themselves, and come first."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(others)}


class ClipTokenizer:
    """Text to ids and back.

    Args:
      directory: of the list of merges; by default the shipped one.

    Attributes:
      where: the same, for messages.
      start, end: ids that stand before and behind every text.
      vocab_size: ids are below this.

    Raises:
      UserError: if the list is missing or damaged.
    """

    def __init__(self, directory: str | Path | None = None):
        folder = assets_dir() / "tokenizer" / "clip" if directory is None else Path(directory)
        self.where, self._file = str(folder), folder / MERGES_FILE
        merges = _read_merges(self._file)
        self._letters = _byte_letters()
        pieces = [*self._letters, *(letter + _END_OF_WORD for letter in self._letters)]
        pieces += ["".join(pair) for pair in merges]
        self._pieces = [*pieces, "<start_of_text>", "<end_of_text>"]
        self.start, self.end = len(pieces), len(pieces) + 1
        self.vocab_size = len(self._pieces)
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        model = tokenizers.models.BPE(vocabulary, merges, end_of_word_suffix=_END_OF_WORD)
        self._library = tokenizers.Tokenizer(model)
        self._library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        words = _WORD.findall(clean(text))
        return self._library.encode(words, is_pretokenized=True, add_special_tokens=False).ids

    def caption(self, text: str, length: int = CONTEXT) -> list[int]:
        """What a text tower reads: start, the text, end; of `length` ids at most, the end kept."""
        return [self.start, *self.encode(text)[: length - 2], self.end]

    def save(self, directory: str | Path) -> None:
        """Writes what `ClipTokenizer` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._file, directory / MERGES_FILE)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, a space behind every word. Start and end say nothing."""
        pieces = "".join(self._pieces[i] for i in ids if i < self.start)
        content = bytes(self._letters[letter] for letter in pieces)
        return content.decode(errors="replace").replace(_END_OF_WORD, " ")


def clean(text: str) -> str:
    """Mended, without HTML's entities, with single spaces, in lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = lzma.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"{error}", "the shipped list of merges", _REMAKE) from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != MERGES or any(len(pair) != 2 for pair in merges):
        raise UserError(str(path), f"{len(merges)} lines", f"{MERGES} pairs", _REMAKE)
    return merges


_REMAKE = "Take it from the repository again."
