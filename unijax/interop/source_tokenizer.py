"""The tokenizer of a foreign checkpoint into the form of `unijax.data.tokenizer`."""

import pathlib

from unijax.core.json_files import read_object
from unijax.data import hf_tokens, special_tokens
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.sentencepiece_tokenizer import pieces


def import_tokenizer(
    source: pathlib.Path, directory: pathlib.Path, vocab_size: int, notes: list[str]
) -> tokenizer_lib.Tokenizer:
    """Copies a tokenizer with the list of its special tokens.

    Args:
      source: directory with tokenizer.json or tokenizer.model.
      directory: written to.
      vocab_size: rows of the embedding, which must hold every id.
      notes: what is to be told is added to it.

    Raises:
      UserError: if there is none, it lacks a token, or has ids that the embedding does not.
    """
    ours = load_foreign(source)
    tokenizer_lib.check_vocab(ours, vocab_size)
    ours.save(directory)
    if ours.special.pad == ours.special.eos:
        notes.append(
            f"no token for padding in {source}: the end of sequence stands for it, as in the code "
            "of the first release; pictures are drawn with guidance against a text of it"
        )
    tell_padding(ours.vocab_size, vocab_size, notes)
    return ours


def tell_padding(ids: int, rows: int, notes: list[str]) -> None:
    """Of a table with more rows than the tokenizer has ids."""
    if ids < rows:
        notes.append(
            f"{rows:,} rows of the embedding and {ids:,} ids of the tokenizer: the last "
            f"{rows - ids:,} rows stand for no text"
        )


def load_foreign(source: pathlib.Path) -> tokenizer_lib.Tokenizer:
    """The tokenizer of a model directory, or of a directory in our form.

    Where both forms are there, transformers reads tokenizer.json. The sentencepiece model is taken
    if the pieces are the same, so that it is there for the next export.
    """
    model, table = source / "tokenizer.model", source / "tokenizer.json"
    ours = (source / special_tokens.FILE_NAME).is_file()
    if not ours and model.is_file() and table.is_file() and not _same_pieces(model, table):
        return tokenizer_lib.load(table)
    return tokenizer_lib.load(source)


def _same_pieces(model: pathlib.Path, table: pathlib.Path) -> bool:
    """Whether every piece has its id in tokenizer.json, and that has no other words."""
    content = read_object(table, hf_tokens.TOKENIZER_BYTES)
    inner = content.get("model")
    words = inner.get("vocab") if isinstance(inner, dict) else None
    if isinstance(words, dict):
        words = sorted(words, key=lambda word: words[word] if type(words[word]) is int else -1)
    elif isinstance(words, list):
        words = [pair[0] if isinstance(pair, list) and pair else None for pair in words]
    added = content.get("added_tokens")
    ordinary = {
        token.get("content")
        for token in (added if isinstance(added, list) else ())
        if isinstance(token, dict)
        and not token.get("special")
        and isinstance(token.get("content"), str)
    }
    own = pieces(model)
    # Symbols of the user's are written there with spaces.
    return words == own and ordinary <= {*own, *(piece.replace("▁", " ") for piece in own)}
