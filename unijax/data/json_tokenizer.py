"""Hugging Face `tokenizer.json` files: the reading side of the tokenizer interface."""

import json
from pathlib import Path

import tokenizers

from unijax.core.errors import UserError
from unijax.data.special_tokens import SpecialTokens


class JsonBackend:
    """A `tokenizer.json` whose special tokens are not looked for in text.

    The library splits text at added tokens before it tokenizes. Those that are special (by the
    file's word, or by ours) are taken out of the copy that encodes; the full copy decodes. Added
    tokens that are ordinary text (DeepSeek has single letters among them) stay.
    """

    def __init__(self, path: Path, special: SpecialTokens):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._full = tokenizers.Tokenizer.from_str(json.dumps(content))
            added = content["added_tokens"]
            unknown = _unknown(content["model"])
            self.control = {
                token["content"]: token["id"]
                for token in added
                if token["special"] and token["content"] != unknown
            }
            kept = [
                token
                for token in added
                if not token["special"] and token["content"] not in special.tokens
            ]
            content |= {"added_tokens": kept, "post_processor": None}
            content |= {"truncation": None, "padding": None}
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                str(path), f"{error}", "a Hugging Face tokenizer.json", "Fetch the file again."
            ) from error
        self.files = {"tokenizer.json": path}
        self.size = max(self._full.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._full.decode(ids, skip_special_tokens=False)

    def piece(self, token_id: int) -> str | None:
        return self._full.id_to_token(token_id)

    def lookup(self, token: str) -> int | None:
        return self._full.token_to_id(token)


def _unknown(model: dict) -> str | None:
    """The token of unknown characters: text may become it, unlike the other special tokens."""
    if model.get("unk_token") is not None:
        return model["unk_token"]
    if model.get("unk_id") is not None:
        return model["vocab"][model["unk_id"]][0]
    return None
