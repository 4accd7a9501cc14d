"""Which tokens of a foreign tokenizer are special, from whichever of its files says it.

A part (bos, eos, ...) is played by the first token that is named, in this order; a null, an empty
string and an absent file name nothing:

1. special_tokens.json, our own list, which is read alone (`special_tokens.read`);
2. tokenizer_config.json: `bos_token` and the like, then those in `extra_special_tokens` and
   `model_specific_special_tokens`; but special_tokens_map.json before it where it has no
   `added_tokens_decoder`, as transformers has it;
3. special_tokens_map.json, the same keys;
4. processor_config.json: the tags of deepseek-ai's processor, `image_start_tag`, ...;
5. the added tokens of tokenizer.json, or pieces, that are called as in the released tokenizers;
6. for padding alone, the end of sequence, as in the first release of Janus-1.3B's code.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.data.special_tokens import FILE_NAME, HF_KEYS, SpecialTokens, check_ids

# How processor_config.json of deepseek-ai calls four of them (`janus/models/processing_vlm.py`).
_TAGS = {
    "boi": "image_start_tag", "eoi": "image_end_tag", "image_placeholder": "image_tag",
    "pad": "pad_tag",
}  # fmt: skip
# What released tokenizers call them: DeepSeek's, for whose processor those four are the defaults,
# Chameleon's, in transformers' form and in Meta's, and Qwen2's, with what MetaQuery adds.
_RELEASED = {
    "bos": ("<｜begin▁of▁sentence｜>", "<s>"),
    "eos": ("<｜end▁of▁sentence｜>", "</s>", "<|im_end|>"),
    "pad": ("<｜▁pad▁｜>", "<pad>", "<|endoftext|>"),
    "boi": ("<begin_of_image>", "<racm3:break>", "<begin_of_img>"),
    "eoi": ("<end_of_image>", "<eoss>", "<end_of_img>"),
    "image_placeholder": ("<image_placeholder>", "<image>", "<reserved08707>", "<|image_pad|>"),
}  # fmt: skip
# Marks of pictures that are read; no key of Hugging Face names them.
_OF_PICTURES = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
# A tokenizer with this token is Qwen2's, whose texts begin with no token and may have no pictures.
_CHATML, _CHATML_NEEDS = "<|im_start|>", ("eos", "pad")
# One with this and a token for pictures is that of LLaVA-NeXT, whose pictures have no marks.
_HEADERS, _HEADERS_NEEDS = "<|start_header_id|>", ("bos", "eos", "pad", "image_placeholder")
_NESTED = ("extra_special_tokens", "model_specific_special_tokens")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FILES = ("tokenizer_config.json", "special_tokens_map.json", "processor_config.json")
TOKENIZER_BYTES = 2**28  # of a tokenizer.json


@dataclasses.dataclass(frozen=True)
class _Named:
    file: Path
    token: str


def read(directory: Path, vocabulary: set[str]) -> SpecialTokens:
    """The special tokens of a directory without a list of ours.

    Args:
      vocabulary: every token of the tokenizer itself.

    Raises:
      UserError: if a part has no token, or a file is not what it should be.
    """
    config, table, processor = (_read(directory / name) for name in _FILES)
    by_class = [(directory / _FILES[0], config), (directory / _FILES[1], table)]
    if "added_tokens_decoder" not in config:
        by_class.reverse()
    ids = _added(directory, config)
    known = vocabulary | ids.keys()
    names, sources = {}, {}
    for role, key in HF_KEYS.items():
        found = next(_named(role, key, by_class, directory / _FILES[2], processor), None)
        if found is None:
            released = (token for token in _RELEASED[role] if token in known)
            found = next((_Named(directory, token) for token in released), None)
        if found is None and role == "pad" and "eos" in names:
            found = _Named(directory, names["eos"])
        if found is not None:
            names[role], sources[found.token] = found.token, found.file
    names |= {role: token for role, token in _OF_PICTURES.items() if token in known}
    needs = tuple(HF_KEYS)
    if _CHATML in known:
        needs = _CHATML_NEEDS
    elif _HEADERS in known and "image_placeholder" in names:
        needs = _HEADERS_NEEDS
    if missing := [HF_KEYS[role] for role in needs if role not in names]:
        looked = [name for name in _FILES if (directory / name).exists()]
        raise UserError(
            str(directory),
            f"no {', '.join(missing)} in {', '.join(looked) or 'any file beside the tokenizer'}",
            f"a token for each of {', '.join(HF_KEYS.values())}",
            f"Name them in {_FILES[0]}, or write {FILE_NAME}.",
        )
    for token, file in sources.items():
        if token not in known:
            raise UserError(
                str(file), f"{quoted(token)}, which the tokenizer does not have", "a token of it",
                "Correct the name, or add the token to the tokenizer.",
            )  # fmt: skip
    tokens = dict.fromkeys(names.values())
    # A listed one that the tokenizer lacks has no row of its own: a text that spells it is text.
    tokens |= {t: None for t in _listed(by_class) if len(t) > 1 and t in known}
    tokens |= {t: None for t in ids if t not in vocabulary}
    tokens = {token: ids.get(token) for token in tokens}
    check_ids(str(directory), tokens)
    return SpecialTokens(names, tokens, "the files beside it")


def vocabulary(file: Path) -> set[str]:
    """Every token of a tokenizer.json or a sentencepiece model.

    Raises:
      UserError: if it is none.
    """
    if file.suffix == ".json":
        content = read_object(file, TOKENIZER_BYTES)
        model = content.get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(words, list):  # unigram: pairs of a piece and its score
            words = [pair[0] for pair in words if isinstance(pair, list) and pair]
        added = content.get("added_tokens")
        contents = [t.get("content") for t in added or () if isinstance(t, dict)]
        return {t for t in (*(words or ()), *contents) if isinstance(t, str)}
    from unijax.data.sentencepiece_tokenizer import pieces

    return set(pieces(file))


def _read(path: Path) -> dict:
    return read_object(path) if path.exists() else {}


def _named(
    role: str, key: str, by_class: list[tuple[Path, dict]], processor_file: Path, processor: dict
) -> Iterator[_Named]:
    """The tokens that the files name for a part, the first wins."""
    for file, content in by_class:
        nested = (content.get(name) for name in _NESTED)
        for group in (content, *(g for g in nested if isinstance(g, dict))):
            if (token := _content(file, key, group.get(key))) is not None:
                yield _Named(file, token)
    tag = _TAGS.get(role)
    token = None if tag is None else _content(processor_file, tag, processor.get(tag))
    if token is not None:
        yield _Named(processor_file, token)


def _content(file: Path, key: str, value: Any) -> str | None:
    """A token, which may be written out with how it is to be stripped; None for nothing."""
    token = value.get("content") if isinstance(value, dict) else value
    if token is None or token == "":
        return None
    if not isinstance(token, str):
        raise UserError(f"{file}: {key}", quoted(value), "a token", "Correct the file.")
    return token


def _listed(by_class: list[tuple[Path, dict]]) -> list[str]:
    """Special tokens that play no part: names of roles and the like."""
    lists = (
        (file, key, content[key])
        for (file, content), key in itertools.product(by_class, _LISTS)
        if isinstance(content.get(key), list)
    )
    tokens = (_content(file, key, token) for file, key, items in lists for token in items)
    return list(dict.fromkeys(t for t in tokens if t is not None))


def _added(directory: Path, config: dict) -> dict[str, int]:
    """Ids of the special tokens that stand beside a vocabulary, which need not have them."""
    ids: dict[str, int] = {}
    path = directory / "added_tokens.json"
    for token, token_id in _read(path).items():
        if type(token_id) is int:
            ids[token] = token_id
    decoder = config.get("added_tokens_decoder")
    pairs = decoder.items() if isinstance(decoder, dict) else ()
    listed = [(token, int(i)) for i, token in pairs if str(i).isdecimal() and len(i) < 10]
    path = directory / "tokenizer.json"
    added = read_object(path, TOKENIZER_BYTES).get("added_tokens") if path.exists() else None
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            listed.append((token, token["id"]))
    for token, token_id in listed:
        content = token.get("content") if isinstance(token, dict) else None
        if isinstance(content, str) and token.get("special"):
            ids[content] = token_id
    return ids
