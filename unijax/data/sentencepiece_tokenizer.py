"""Sentencepiece models: the reading side of the tokenizer interface, and training one."""

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.data import special_tokens
from unijax.data.special_tokens import SpecialTokens


class SentencePieceBackend:
    """A sentencepiece model that encodes text as it stands.

    A conversation is encoded in pieces (the prompt, then the answer, which begins with a space), so
    the model must neither put a space before a piece nor take one away: both switches of the file
    are turned off as it is read.
    """

    def __init__(self, path: Path):
        proto = _read(path)
        try:
            proto.normalizer_spec.add_dummy_prefix = False
            proto.normalizer_spec.remove_extra_whitespaces = False
            self._model = sentencepiece.SentencePieceProcessor(
                model_proto=proto.SerializeToString()
            )
        except Exception as error:  # sentencepiece raises types of its own
            raise _unreadable(path, error) from error
        self.files = {"tokenizer.model": path}
        self.size = self._model.get_piece_size()
        self.control = {
            self._model.id_to_piece(i): i for i in range(self.size) if self._model.is_control(i)
        }
        self._unknown = self._model.unk_id()

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    def piece(self, token_id: int) -> str | None:
        return self._model.id_to_piece(token_id)

    def lookup(self, token: str) -> int | None:
        token_id = self._model.piece_to_id(token)
        known = token_id != self._unknown or token == self._model.id_to_piece(self._unknown)
        return token_id if known else None


def pieces(path: Path) -> list[str]:
    """Every piece of a model by its id. Raises UserError if the file is none."""
    return [piece.piece for piece in _read(path).pieces]


def _read(path: Path) -> model_pb2.ModelProto:
    proto = model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises types of its own
        raise _unreadable(path, error) from error
    return proto


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        str(path), shown(str(error)), "a sentencepiece model", "Fetch or train the file again."
    )


def train(
    directory: Path,
    texts: Iterable[str],
    *,
    vocab_size: int,
    names: dict[str, str],
    extra: tuple[str, ...] = (),
    model_type: str = "unigram",
) -> None:
    """Trains a sentencepiece model with byte fallback; writes it and its special_tokens.json.

    Every string survives encode and decode, but for U+2581, which comes back as a space:
    characters without a piece become bytes, nothing is normalised, and a line break is a piece of
    its own.

    Args:
      directory: written to: tokenizer.model, special_tokens.json.
      texts: the corpus.
      vocab_size: pieces, special tokens and the 256 bytes included.
      names: the token that plays each field of `SpecialIds`.
      extra: further special tokens, such as the names of roles.
      model_type: "unigram" or "bpe".
    """
    bos, eos, pad = names["bos"], names["eos"], names["pad"]
    control = [token for token in (*names.values(), *extra) if token not in (bos, eos, pad)]
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line),
        model_writer=writer,
        vocab_size=vocab_size,
        model_type=model_type,
        byte_fallback=True,
        character_coverage=0.9995,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=["\n"],
        control_symbols=control,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece=pad,
        bos_piece=bos,
        eos_piece=eos,
        num_threads=1,  # the same model every time
        minloglevel=2,
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(writer.getvalue())
    tokens = dict.fromkeys((*names.values(), *extra))
    special_tokens.write(directory / special_tokens.FILE_NAME, SpecialTokens(names, tokens))
