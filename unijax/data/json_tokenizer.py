"""Hugging Face `tokenizer.json` files: the reading side of the tokenizer interface."""

import itertools
import json
from pathlib import Path

import tokenizers

from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.data.special_tokens import SpecialTokens


class JsonBackend:
    """A `tokenizer.json` whose special tokens are not looked for in text.

    The library splits text at added tokens before it tokenizes. All that are special, by the file's
    word or by the list's, are marked special in memory, and the library is told to encode such as
    text. Added tokens that are ordinary text (DeepSeek has single letters among them) stay whole.
    """

    def __init__(self, path: Path, special: SpecialTokens):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            unknown = _unknown(content["model"])
            for token in content["added_tokens"]:
                listed = token["content"] in special.tokens
                token["special"] = (token["special"] or listed) and token["content"] != unknown
            content |= {"truncation": None, "padding": None}
            self._library = tokenizers.Tokenizer.from_str(json.dumps(content))
            self._library.encode_special_tokens = True
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                str(path), shown(str(error)), "a Hugging Face tokenizer.json", "Fetch it again."
            ) from error
        added = content["added_tokens"]
        self.control = {token["content"]: token["id"] for token in added if token["special"]}
        self._added = {token["id"]: token["content"] for token in added}
        self.files = {"tokenizer.json": path}
        self.size = max(self._library.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        # The byte-level decoder would take an added token's letters for bytes: they go around it.
        texts = []
        for added, run in itertools.groupby(ids, key=self._added.__contains__):
            if added:
                texts += [self._added[token_id] for token_id in run]
            else:
                texts.append(self._library.decode(list(run), skip_special_tokens=False))
        return "".join(texts)

    def piece(self, token_id: int) -> str | None:
        return self._library.id_to_token(token_id)

    def lookup(self, token: str) -> int | None:
        return self._library.token_to_id(token)


def _unknown(model: dict) -> str | None:
    """The token of unknown characters: text may become it, unlike the other special tokens."""
    if model.get("unk_token") is not None:
        return model["unk_token"]
    if model.get("unk_id") is not None:
        return model["vocab"][model["unk_id"]][0]
    return None
