"""One group of keys of a foreign config: each is a size, plain, harmless, or told.

What a config can say and this model cannot do is refused by name. Sizes are whole numbers within
limits, so that a hostile file costs no memory. A key that nobody here knows is told: the class that
the config names would leave it out too, but a look-alike that was renamed might mean it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, shown

# The largest of anything that was ever trained, with room.
LAYERS, BLOCKS, WIDTH, ROWS, SIDE, POSITIONS = 1_000, 100, 2**20, 2**24, 2**14, 2**31 - 1

# Keys of every transformers config that say nothing of the forward pass of a decoder or encoder.
GENERIC = frozenset(
    (
        "_attn_implementation", "_attn_implementation_autoset",
        "_attn_implementation_internal", "_commit_hash", "_experts_implementation",
        "_flash_attn_2_enabled", "_from_model_config", "_name_or_path", "add_cross_attention",
        "architectures", "attn_implementation", "bad_words_ids", "begin_suppress_tokens",
        "bos_token_id", "chunk_size_feed_forward", "classifier_dropout",
        "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
        "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
        "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
        "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
        "image_token_id", "initializer_factor", "initializer_range", "is_decoder",
        "is_encoder_decoder", "keys_to_ignore_at_inference", "label2id", "length_penalty",
        "max_length", "min_length", "model_type", "name_or_path", "no_repeat_ngram_size",
        "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
        "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
        "prefix", "pretraining_tp", "problem_type", "remove_invalid_values",
        "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id",
        "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
        "tie_encoder_decoder", "tie_last_hidden_states", "tie_word_embeddings",
        "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
        "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_cache",
    )
)  # fmt: skip


class Section:
    """A group of keys, with the defaults of the class that would read it.

    Args:
      where: the file and the group, for messages.
      values: an object of JSON, or None where the file has none.
      defaults: for keys that the file leaves out; None for an optional one.
    """

    def __init__(self, where: str, values: object, defaults: Mapping[str, Any] | None = None):
        if not isinstance(values, Mapping | None):
            raise UserError(where, shown(values), "a group of keys, {...}", _CORRECT)
        self.where = where
        self._own: Mapping[str, Any] = values or {}
        self._values = {**(defaults or {}), **self._own}
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        """Whether the file has a value for it."""
        return self._own.get(key) is not None

    def get(self, key: str) -> Any:
        """Whatever stands there; None where nothing does."""
        self._read.add(key)
        return self._values.get(key)

    def whole(self, key: str, most: int, least: int = 1) -> int:
        """A whole number within limits."""
        value = self._need(key)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number, {least} to {most:,}")
        return value

    def real(self, key: str, most: float | int) -> float:
        """A finite number above 0."""
        value = self._need(key)
        if type(value) not in (int, float) or not 0 < value <= most or not math.isfinite(value):
            raise self._wrong(key, value, f"a number above 0, {most:g} at most")
        return float(value)

    def wholes(self, key: str, most: int, length: int) -> tuple[int, ...]:
        """A list of whole numbers above 0, of at most `length`."""
        value = self._need(key)
        good = (
            isinstance(value, Sequence) and not isinstance(value, str) and 0 < len(value) <= length
        )
        if not good or not all(type(x) is int and 0 < x <= most for x in value):
            raise self._wrong(key, value, f"a list of 1 to {length} whole numbers, 1 to {most:,}")
        return tuple(value)

    def word(self, key: str) -> str:
        """A text."""
        value = self._need(key)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses every other value. A missing key has its default."""
        value = self._need(key)
        if not any(_same(value, one) for one in allowed):
            raise UserError(
                f"{self.where}.{shown(key)}",
                quoted(value),
                " or ".join(map(repr, allowed)),
                "This model has no other kind.",
            )

    def plain(self, table: Mapping[str, tuple]) -> None:
        """Refuses keys of `table` that say something. Null and what is empty say nothing."""
        for key in table:
            value = self.get(key)
            empty = value is None or (isinstance(value, dict | list | str) and not value)
            if not empty:
                self.require(key, *(table[key] or (None,)))

    def classes(self, *allowed: str) -> None:
        """Refuses `architectures` that are not of these classes; where none are named, all is well.

        A `model_type` is shared by models that compute otherwise.
        """
        names = self.get("architectures") or []
        if not isinstance(names, list) or not all(str(name) in allowed for name in names):
            raise UserError(
                f"{self.where}.architectures", quoted(names), " or ".join(allowed),
                "This model has no other kind.",
            )  # fmt: skip

    def group(self, key: str, defaults: Mapping[str, Any] | None = None) -> "Section":
        """The group of keys under a key; an empty one where there is none."""
        return Section(f"{self.where}.{key}", self.get(key), defaults)

    def unknown(self, harmless: Iterable[str] = ()) -> list[str]:
        """What is to be told of the keys that were neither read nor are harmless."""
        left = self._own.keys() - self._read - GENERIC - set(harmless)
        return [
            f"{self.where}.{shown(key)}={quoted(self._own[key])} is not known here; it is taken to "
            "change nothing"
            for key in sorted(left)
            if self._own[key] is not None
        ]

    def _need(self, key: str) -> Any:
        value = self.get(key)
        if key not in self._values:
            raise UserError(self.where, f"no {key}", "a value for it", "Complete the file.")
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> UserError:
        return UserError(f"{self.where}.{key}", quoted(value), expected, _CORRECT)


_CORRECT = "Correct the file."


def _same(value: Any, allowed: Any) -> bool:
    """As `==`, but truth values are no numbers."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed
