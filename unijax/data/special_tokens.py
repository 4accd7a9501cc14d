"""`special_tokens.json`: which tokens are special and what their ids are. Data, never literals."""

import dataclasses
import json
from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds

FILE_NAME = "special_tokens.json"
ROLES = tuple(field.name for field in dataclasses.fields(SpecialIds))

# How Hugging Face's tokenizer_config.json calls the same six.
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
      names: for each field of `SpecialIds`, the token that plays it.
      tokens: every special token and its id, or None where the tokenizer itself knows the id.
        Tokens that are special but play none of the six parts stand here too (role names).
    """

    names: dict[str, str]
    tokens: dict[str, int | None]


def read(path: Path) -> SpecialTokens:
    """Reads `{"names": {"bos": "<s>", ...}, "tokens": {"<s>": 1, "<|User|>": null, ...}}`."""
    content = _read_object(path)
    names, tokens = content.get("names", {}), dict(content.get("tokens", {}))
    _check_names(path, names)
    for token in names.values():
        tokens.setdefault(token, None)
    for token, token_id in tokens.items():
        if token_id is not None and (type(token_id) is not int or token_id < 0):
            raise UserError(
                str(path),
                f"id {token_id!r} of {token!r}",
                "a whole number or null",
                "Correct the id.",
            )
        if len(token) < 2:
            raise UserError(
                str(path),
                f"special token {token!r}",
                "at least two characters",
                "Rename it: text that holds one character cannot be told from the token.",
            )
    given = [token_id for token_id in tokens.values() if token_id is not None]
    if len(set(given)) < len(given):
        raise UserError(str(path), "one id for two tokens", "different ids", "Correct the ids.")
    return SpecialTokens(dict(names), tokens)


def read_hf(directory: Path) -> SpecialTokens:
    """The same from a Hugging Face tokenizer directory (tokenizer_config.json)."""
    path = directory / "tokenizer_config.json"
    if not path.exists():
        raise UserError(
            str(directory),
            f"neither {FILE_NAME} nor tokenizer_config.json",
            "one of them beside the tokenizer",
            f"Write {FILE_NAME}: which tokens are bos, eos, pad, boi, eoi, image_placeholder.",
        )
    config = _read_object(path)
    extra = config.get("extra_special_tokens", {})
    known = {**(extra if isinstance(extra, dict) else {}), **config}
    names = {}
    for role, key in HF_KEYS.items():
        token = known.get(key)
        if token is not None:
            names[role] = token["content"] if isinstance(token, dict) else token
    _check_names(path, names)
    return SpecialTokens(names, dict.fromkeys(names.values()))


def write(path: Path, special: SpecialTokens) -> None:
    content = {"names": special.names, "tokens": special.tokens}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            str(path),
            "no file",
            "a list of special tokens",
            "Write one: names and tokens, as in assets/tokenizer/special_tokens.json.",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(str(path), str(error), "JSON", "Repair the file.") from None
    if not isinstance(content, dict):
        raise UserError(
            str(path), f"a {type(content).__name__}", "an object, {...}", "Rewrite the file."
        )
    return content


def _check_names(path: Path, names: dict[str, str]) -> None:
    missing = [role for role in ROLES if role not in names]
    if missing:
        raise UserError(
            str(path),
            f"no token for {', '.join(missing)}",
            f"a token for each of {', '.join(ROLES)}",
            f"Name them in {FILE_NAME}.",
        )
    unknown = sorted(set(names) - set(ROLES))
    if unknown:
        raise UserError(
            str(path),
            f"names {', '.join(unknown)}",
            f"only {', '.join(ROLES)}",
            "Other special tokens belong under 'tokens'.",
        )
