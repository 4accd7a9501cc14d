"""Tokenizers of texts that stand alone: CLIP's, or any that a decoder has."""

from pathlib import Path

from unijax.data import tokenizer
from unijax.data.clip_tokenizer import MERGES_FILE, ClipTokenizer
from unijax.data.tokenizer import Tokenizer

CaptionTokenizer = Tokenizer | ClipTokenizer


def load(path: str | Path) -> CaptionTokenizer:
    """CLIP's of a directory with its list of merges, else what `data.tokenizer.load` reads."""
    if (Path(path) / MERGES_FILE).is_file():
        return ClipTokenizer(path)
    return tokenizer.load(path)
