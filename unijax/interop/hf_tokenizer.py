"""Our tokenizers as Hugging Face fast tokenizers: tokenizer.json, tokenizer_config.json and, where
there is one, the sentencepiece model.

Special tokens that stand in a text become special ids there, as the processors of transformers want
it; ordinary text gets the ids that `unijax.data.tokenizer` gives it, after begin-of-sequence.
"""

import pathlib
import re
import shutil

import tokenizers
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from unijax.core.errors import UserError
from unijax.core.json_files import write_object
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.special_tokens import HF_KEYS, ROLES

_Piece = model_pb2.ModelProto.SentencePiece
_SPACE = "▁"


def write_hf_tokenizer(source: pathlib.Path, directory: pathlib.Path, max_length: int) -> None:
    """Writes the tokenizer of a run directory so that `AutoTokenizer` loads it.

    Args:
      source: directory with tokenizer.model or tokenizer.json, and special_tokens.json.
      directory: written to.
      max_length: positions of the model.

    Raises:
      UserError: if the tokenizer has what Hugging Face's library cannot say.
    """
    ours = tokenizer_lib.load(source)
    there = [role for role in HF_KEYS if getattr(ours.special, role) is not None]
    names = {HF_KEYS[role]: token_of(ours, role) for role in there}
    others = [r for r in ROLES if r not in HF_KEYS and getattr(ours.special, r) is not None]
    if len(there) < len(HF_KEYS) or others:
        # Our own list, which an import reads: elsewhere all of those are looked for, and no others.
        ours.save(directory)
    if (source / "tokenizer.model").is_file():
        hf = _from_sentencepiece(source / "tokenizer.model")
    else:
        hf = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    # Those that the vocabulary has keep their id; others are numbered from its end on.
    for token, _ in sorted(ours.tokens.items(), key=lambda item: item[1]):
        hf.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    for token, token_id in ours.tokens.items():
        if hf.token_to_id(token) != token_id:
            raise UserError(
                str(source),
                f"id {token_id} for {token!r}",
                f"id {hf.token_to_id(token)}: ids beyond the vocabulary without a gap",
                "Renumber the special tokens of the tokenizer.",
            )
    if bos := names.get("bos_token"):
        hf.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", bos, "$B"],
            special_tokens=[(bos, ours.special.bos)],
        )
    hf.no_padding()
    hf.no_truncation()
    hf.save(str(directory / "tokenizer.json"))
    if (source / "tokenizer.model").is_file():
        shutil.copyfile(source / "tokenizer.model", directory / "tokenizer.model")
    config = {
        # Of transformers 4 and 5 alike: tokenizer.json as it is, with no model's own rules.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get("bos_token"),
        "eos_token": names["eos_token"],
        "pad_token": names.get("pad_token"),
        # transformers makes attributes of these, which processors read.
        "extra_special_tokens": {
            key: names[key] for key in ("image_token", "boi_token", "eoi_token") if key in names
        },
        # For readers of tokenizer.model that know the ids of its pieces alone.
        "added_tokens_decoder": {
            str(token_id): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": True,
            }
            for token, token_id in sorted(ours.tokens.items(), key=lambda item: item[1])
        },
        "add_prefix_space": False,  # llama.cpp's converter takes true for the default
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "padding_side": "left",
    }  # fmt: skip
    write_object(directory / "tokenizer_config.json", config)


def token_of(tokenizer: tokenizer_lib.Tokenizer, role: str) -> str:
    """The token that plays a field of `SpecialIds`. Raises UserError where there is none."""
    if (token_id := getattr(tokenizer.special, role)) is None:
        raise UserError(
            tokenizer.where, f"no token for {role}", "one, which this format names",
            "Name it in special_tokens.json.",
        )  # fmt: skip
    return tokenizer.piece(token_id)


def _from_sentencepiece(path: pathlib.Path) -> tokenizers.Tokenizer:
    """The model as ours reads it: no space is put before a text and none is taken away.

    A model with rules that rewrite characters (NFKC) has them applied to graphemes here and to
    characters there: ids can differ at CR LF and at combining marks. Models that
    `unijax.data` trains have none.
    """
    proto = model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    kinds = {proto.trainer_spec.UNIGRAM: _unigram, proto.trainer_spec.BPE: _bpe}
    kind = proto.trainer_spec.model_type
    spec = proto.normalizer_spec
    if (
        kind not in kinds
        or not spec.escape_whitespaces
        or (proto.trainer_spec.treat_whitespace_as_suffix)
    ):
        raise UserError(
            str(path),
            "a model of words or characters, or one with unusual white space",
            "a unigram or BPE model that writes a space as U+2581",
            "Export needs one of these: train the tokenizer with them.",
        )
    hf = tokenizers.Tokenizer(kinds[kind](proto))
    steps = [normalizers.Replace(" ", _SPACE)]
    if spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(spec.precompiled_charsmap))
    hf.normalizer = normalizers.Sequence(steps)
    hf.pre_tokenizer = _keep_apart(proto)
    hf.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    hf.add_tokens(
        [
            AddedToken(p.piece.replace(_SPACE, " "), special=False, normalized=False)
            for p in proto.pieces
            if p.type == _Piece.USER_DEFINED
        ]
    )
    return hf


def _unigram(proto: model_pb2.ModelProto) -> models.Unigram:
    vocab = [(p.piece, p.score) for p in proto.pieces]
    unknown = next(i for i, p in enumerate(proto.pieces) if p.type == _Piece.UNKNOWN)
    return models.Unigram(vocab, unknown, byte_fallback=proto.trainer_spec.byte_fallback)


def _keep_apart(proto: model_pb2.ModelProto) -> pre_tokenizers.PreTokenizer:
    """Cuts a text that spells a piece behind its first character.

    Sentencepiece never finds the pieces of bytes and of the unknown in a text that happens to spell
    them; the other library would.
    """
    kinds = (_Piece.BYTE, _Piece.UNKNOWN, _Piece.UNUSED)
    spelt = [p.piece for p in proto.pieces if p.type in kinds and len(p.piece) > 1]
    pattern = "|".join(f"{re.escape(p[0])}(?={re.escape(p[1:])})" for p in spelt)
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def _bpe(proto: model_pb2.ModelProto) -> models.BPE:
    """Pieces and, for each, the pairs of pieces that make it, best score first."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    scores = {p.piece: p.score for p in proto.pieces if p.type == _Piece.NORMAL}
    merges = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                merges.append((-score, vocab[left], vocab[right], left, right))
    merges.sort()
    unknown = next(p.piece for p in proto.pieces if p.type == _Piece.UNKNOWN)
    return models.BPE(
        vocab,
        [(left, right) for *_, left, right in merges],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
