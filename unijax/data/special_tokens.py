"""`special_tokens.json`: which tokens are special and what their ids are. Data, never literals."""

import dataclasses
import json
from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.files import write_file
from unijax.core.json_files import quoted, read_object, shown
from unijax.core.vocab import SpecialIds

FILE_NAME = "special_tokens.json"
ROLES = tuple(field.name for field in dataclasses.fields(SpecialIds))

# How Hugging Face calls the same.
HF_KEYS = {
    "bos": "bos_token",
    "eos": "eos_token",
    "pad": "pad_token",
    "boi": "boi_token",
    "eoi": "eoi_token",
    "image_placeholder": "image_token",
}


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer.

    Attributes:
      names: for fields of `SpecialIds`, the token that plays it; "eos" among them.
      tokens: every special token and its id, or None where the tokenizer itself knows the id.
        Tokens that are special but play none of those parts stand here too (role names).
      listed: the file that says so, for messages.
    """

    names: dict[str, str]
    tokens: dict[str, int | None]
    listed: str = FILE_NAME


def read(path: Path) -> SpecialTokens:
    """Reads `{"names": {"bos": "<s>", ...}, "tokens": {"<s>": 1, "<|User|>": null, ...}}`."""
    content = read_object(path)
    names, tokens = content.get("names", {}), content.get("tokens", {})
    if not isinstance(names, dict) or not all(isinstance(t, str) for t in names.values()):
        raise UserError(str(path), f"names {shown(names)}", "a token for each", _AS)
    if not isinstance(tokens, dict):
        raise UserError(str(path), f"tokens {shown(tokens)}", "an id, or null, for each", _AS)
    _check_names(path, names)
    for token in names.values():
        tokens.setdefault(token, None)
    check_ids(str(path), tokens)
    return SpecialTokens(dict(names), tokens, path.name)


def check_ids(where: str, tokens: dict) -> None:
    """Raises a UserError for an id that is none, or a token that text cannot be told from."""
    for token, token_id in tokens.items():
        if token_id is not None and (type(token_id) is not int or token_id < 0):
            raise UserError(
                where,
                f"id {quoted(token_id)} of {quoted(token)}",
                "a whole number or null",
                "Correct the id.",
            )
        if len(token) < 2:
            raise UserError(
                where,
                f"special token {quoted(token)}",
                "at least two characters",
                "Rename it: text that holds one character cannot be told from the token.",
            )
    given = [token_id for token_id in tokens.values() if token_id is not None]
    if len(set(given)) < len(given):
        raise UserError(where, "one id for two tokens", "different ids", "Correct the ids.")


_AS = "Write it as in assets/tokenizer/special_tokens.json."


def text(special: SpecialTokens) -> str:
    """What `read` reads."""
    content = {"names": special.names, "tokens": special.tokens}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def write(path: Path, special: SpecialTokens) -> None:
    write_file(path, text(special))


def _check_names(path: Path, names: dict[str, str]) -> None:
    if "eos" not in names:
        raise UserError(
            str(path), "no token for eos", "one that ends a text", f"Name it in {FILE_NAME}."
        )
    unknown = sorted(set(names) - set(ROLES))
    if unknown:
        raise UserError(
            str(path),
            f"names {shown(', '.join(unknown))}",
            f"only {', '.join(ROLES)}",
            "Other special tokens belong under 'tokens'.",
        )
