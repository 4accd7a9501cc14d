"""What recipes share whose decoder is a Llama, with its parameters under `language_model`."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from unijax.core import tree
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.system import Metrics, Params
from unijax.models.llama import KVCache, Llama, init_cache
from unijax.nn.stack import unstack
from unijax.ops.attention import packed_intervals
from unijax.ops.cross_entropy import HeadLoss, head_loss


class Language:
    """Of a recipe with `config.text`, `config.head_chunk`, `dtype`, `param_dtype`, `remat`."""

    own_axes: ClassVar[dict[str, str]] = {}
    keeps: ClassVar[tuple[str, ...]] = ()
    adapts: ClassVar[str] = "language_model/layers/"

    @property
    def _kinds(self) -> dict:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def language_model(self) -> Llama:
        return Llama(self.config.text, remat=self.remat, **self._kinds)

    @property
    def vocab_size(self) -> int:
        return self.config.text.vocab_size

    @property
    def max_positions(self) -> int:
        return self.config.text.max_position_embeddings

    def embed_text(self, params: Params, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """Rows of the table of text ids."""
        p = {"params": params["language_model"]}
        return self.language_model.apply(p, ids, method="embed")

    def states(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        batch: PackedBatch,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, of the embeddings of packed rows.

        Args:
          key: of the step, where the decoder has dropout; None drops nothing.
        """
        intervals = packed_intervals(batch.segment, batch.kind, batch.image, self.sees_whole)
        p = {"params": params["language_model"]}
        drops = {} if key is None else {"rngs": {"dropout": key}, "document": batch.uid}
        return self.language_model.apply(p, x, batch.position, *intervals, **drops)[0]

    def text_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Of the text head, float32."""
        return self.head_logits(params, hidden)

    def head_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Of the text head, float32, as the loss has them."""
        p = {"params": params["language_model"]}
        return self.language_model.apply(p, hidden, method="logits")

    def text_loss(
        self,
        params: Params,
        hidden: Float[Array, "B T D"],
        batch: PackedBatch,
        frozen: frozenset[str],
    ) -> tuple[HeadLoss, Float[Array, "B T"]]:
        """Cross-entropy of the positions that answer with text, and their weights."""
        answers = batch.target_kind == Target.TEXT
        weight = jnp.where(answers, batch.weight, 0.0)
        path, head = self._head(params)
        loss = head_loss(
            self._text_head,
            head,
            hidden,
            jnp.where(answers, batch.target, 0),
            weight,
            chunk=self.config.head_chunk,
            by_class=True,
            frozen=path in frozen,
        )
        return loss, weight

    def _head(self, params: Params) -> tuple[str, Params]:
        """Where the kernel of the text head is, and the head: tied to the table, its transpose."""
        own = params["language_model"]
        if self.config.text.tie_word_embeddings:
            table = own["embed_tokens"]["embedding"]
            return "language_model/embed_tokens/embedding", {"kernel": table.T}
        return "language_model/lm_head/kernel", own["lm_head"]

    def _text_head(self, p: Params, hidden: Float[Array, "n D"]) -> Float[Array, "n V"]:
        """Of as many classes as `p` holds: a device may have some of them only."""
        rows = p["kernel"].shape[-1]
        text = dataclasses.replace(self.config.text, vocab_size=rows, tie_word_embeddings=False)
        llama = Llama(text, **self._kinds)
        return llama.apply({"params": {"lm_head": p}}, hidden, method="logits")

    # Decoding with a cache

    def for_decoding(self, params: Params) -> Params:
        """Parameters as `decode` takes them.

        Layers of the decoder lie apart, and all but the encoders are cast to the dtype of compute
        once, instead of at every token: to the same bits.
        """
        cast = {
            group: jax.tree.map(lambda x: x.astype(self.dtype), leaves)
            for group, leaves in params.items()
            if group not in self.encoders
        }
        cast["language_model"] = unstack(cast["language_model"], "layers")
        return params | cast

    def init_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache with room for `length` entries."""
        return init_cache(self.config.text, batch, length, self.dtype)

    def decode(
        self,
        params: Params,
        x: Float[Array, "B T D"],
        position: Int[Array, "B T"] | Int[Array, "B T A"],
        kv_start: Int[Array, "B T"],
        kv_end: Int[Array, "B T"],
        cache: KVCache,
        kind: Kind | Int[Array, "B T"] = Kind.TEXT,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Hidden states of T more positions a row, and the cache with them.

        Args:
          params: as `for_decoding` lays them out.
          kind: of the positions; here all go through the same weights.
        """
        del kind
        decoder = self.language_model.clone(unrolled=True)
        weights = {"params": params["language_model"]}
        return decoder.apply(weights, x, position, kv_start, kv_end, cache)


def all_frozen(group: str, params: Params, frozen: frozenset[str]) -> bool:
    """Whether nothing in `params`, whose paths begin with `group`, trains."""
    return all(f"{group}/{path}" in frozen for path in tree.flatten(params))


def mean_of(name: str, loss: HeadLoss, weight: Float[Array, "B T"]) -> Metrics:
    """Loss and accuracy of the positions with weight."""
    total = jnp.sum(weight)
    return {
        f"{name}/loss": (jnp.sum(weight * loss.nll), total),
        f"{name}/accuracy": (jnp.sum(weight * loss.correct), total),
    }
