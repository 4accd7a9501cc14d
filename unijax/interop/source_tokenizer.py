"""The tokenizer of a foreign checkpoint into the form of `unijax.data.tokenizer`."""

import pathlib
import tempfile

from unijax.data import special_tokens
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.special_tokens import HF_KEYS, SpecialTokens
from unijax.data.templates import TEMPLATES
from unijax.interop.configs import read_json

# Names that the code of deepseek-ai/Janus has by default (`processing_vlm.py`).
_RELEASED = {
    "boi": "<begin_of_image>",
    "eoi": "<end_of_image>",
    "image_placeholder": "<image_placeholder>",
}
# How its processor_config.json calls them when it does not leave them out.
_TAGS = {
    "boi": "image_start_tag", "eoi": "image_end_tag", "image_placeholder": "image_tag",
    "pad": "pad_tag",
}  # fmt: skip


def import_tokenizer(source: pathlib.Path, directory: pathlib.Path, vocab_size: int) -> str:
    """Copies a tokenizer with the list of its special tokens.

    Args:
      source: directory with tokenizer.json or tokenizer.model.
      directory: written to.
      vocab_size: rows of the embedding, which must hold every id.

    Returns:
      The template whose roles are tokens of it: a key of `TEMPLATES`.

    Raises:
      UserError: if there is none, it lacks a token, or has ids that the embedding does not.
    """
    ours = load_foreign(source)
    tokenizer_lib.check_vocab(ours, vocab_size)
    ours.save(directory)
    pro = TEMPLATES["janus_pro"]
    return "janus_pro" if {pro.user, pro.assistant} <= set(ours.tokens) else "janus"


def load_foreign(source: pathlib.Path) -> tokenizer_lib.Tokenizer:
    """The tokenizer of a model directory, or of a directory in our form."""
    if (source / special_tokens.FILE_NAME).is_file():
        return tokenizer_lib.load(source)
    with tempfile.TemporaryDirectory() as folder:
        listed = pathlib.Path(folder) / special_tokens.FILE_NAME
        special_tokens.write(listed, _special_tokens(source))
        return tokenizer_lib.load(source, listed)


def _special_tokens(source: pathlib.Path) -> SpecialTokens:
    """Which tokens are special, from whichever file says it."""
    files = ("special_tokens_map.json", "tokenizer_config.json", "processor_config.json")
    found: dict = {}
    for name in files:
        if (source / name).is_file():
            found |= read_json(source / name)
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(found.get(key), dict):
            found = {**found[key], **found}
    names = {}
    for role, key in HF_KEYS.items():
        token = found.get(key) or found.get(_TAGS.get(role)) or _RELEASED.get(role)
        if token is not None:
            names[role] = _content(token)
    tokens = dict.fromkeys(names.values())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(found.get(key), list):
            tokens |= dict.fromkeys(map(_content, found[key]))
    return SpecialTokens(names, tokens)


def _content(token: str | dict) -> str:
    return token["content"] if isinstance(token, dict) else token
