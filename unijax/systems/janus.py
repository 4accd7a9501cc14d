"""Janus and Janus-Pro: one causal decoder, two visual paths in, two heads out.

Understanding and generation are decoupled (arXiv 2410.13848, section 3.1): an image to understand
enters as SigLIP features through an adaptor; an image to generate enters as codes of a VQ tokenizer
through a code table and an adaptor of its own, and leaves through an image head. Attention is
causal everywhere. The loss is plain cross-entropy on text ids and on image codes (section 3.3), one
mean over all target tokens of the step.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core import axes, tree
from unijax.core.batch import ImageSlots, Kind, PackedBatch, Target
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.core.system import Metrics, Params, Sums
from unijax.models import llama, siglip, vqgan
from unijax.models.llama import Llama, LlamaConfig
from unijax.models.siglip import Siglip, SiglipConfig
from unijax.models.vqgan import VQGAN, VQConfig
from unijax.nn.layers import Embed
from unijax.nn.projector import CodeHead, Projector
from unijax.ops.attention import attention_pairs, packed_intervals
from unijax.ops.cross_entropy import HeadLoss, head_loss
from unijax.ops.image import to_signed


@dataclasses.dataclass(frozen=True)
class JanusConfig:
    """Sizes of the parts. Image codes come from `vq`, adaptors end at the decoder's width."""

    text: LlamaConfig
    vision: SiglipConfig
    vq: VQConfig
    head_chunk: int = 512  # positions of a device whose logits exist at one time


_VISION, _VQ = siglip.SIZES["siglip_large_patch16_384"], vqgan.SIZES["vq_16"]
SIZES = {
    # Janus 1.3B and Janus-Pro 1B are the same network; data and schedule differ.
    "janus_1b": JanusConfig(llama.SIZES["deepseek_1b"], _VISION, _VQ),
    "janus_pro_1b": JanusConfig(llama.SIZES["deepseek_1b"], _VISION, _VQ),
    "janus_pro_7b": JanusConfig(llama.SIZES["deepseek_7b"], _VISION, _VQ),
}


@dataclasses.dataclass(frozen=True)
class Janus:
    """The recipe.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the decoder's and tower's layers: "none", "dots" or "full".
    """

    config: JanusConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    # Parts on the input side: when frozen they cost a forward pass and nothing more.
    encoders = frozenset({"vision_model", "vqmodel"})
    rows_alone = True
    # Modalities whose `NAME/loss` is among the metrics.
    losses = ("text", "understanding", "code")

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        width = vision.hidden_size // vision.num_attention_heads
        return {"language_model": self.config.text.head_dim, "vision_model": width}

    @property
    def _kinds(self) -> dict:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def language_model(self) -> Llama:
        return Llama(self.config.text, remat=self.remat, **self._kinds)

    @property
    def vision_model(self) -> Siglip:
        return Siglip(self.config.vision, remat=self.remat, **self._kinds)

    @property
    def vqmodel(self) -> VQGAN:
        return VQGAN(self.config.vq, **self._kinds)

    @property
    def aligner(self) -> Projector:
        return Projector(self.config.text.hidden_size, **self._kinds)

    @property
    def generation_embeddings(self) -> Embed:
        vq = self.config.vq
        names = (axes.CODEBOOK, axes.CODE_DIM)
        return Embed(vq.num_embeddings, vq.embed_dim, names, **self._kinds)

    @property
    def generation_aligner(self) -> Projector:
        return Projector(self.config.text.hidden_size, in_axis=axes.CODE_DIM, **self._kinds)

    @property
    def generation_head(self) -> CodeHead:
        width = self.config.text.hidden_size
        return CodeHead(width, self.config.vq.num_embeddings, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        c = self.config
        width = c.text.hidden_size
        ids = jnp.zeros((1, 1), jnp.int32)
        hidden = jnp.zeros((1, 1, width), self.dtype)
        image = jnp.zeros((1, c.vision.image_size, c.vision.image_size, 3), self.dtype)
        picture = jnp.zeros((1, c.vq.image_size, c.vq.image_size, 3), self.dtype)
        features = jnp.zeros((1, 1, c.vision.hidden_size), self.dtype)
        code = jnp.zeros((1, 1, c.vq.embed_dim), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vision_model": lambda k: self.vision_model.init(k, image),
            "vqmodel": lambda k: self.vqmodel.init(k, picture),
            "aligner": lambda k: self.aligner.init(k, features),
            "generation_embeddings": lambda k: self.generation_embeddings.init(k, ids),
            "generation_aligner": lambda k: self.generation_aligner.init(k, code),
            "generation_head": lambda k: self.generation_head.init(k, hidden),
        }
        keys = jax.random.split(key, len(parts))
        return {name: fn(k)["params"] for (name, fn), k in zip(parts.items(), keys)}

    # Inputs

    def encode_und(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        """Features of images to understand, from pixels in [-1, 1]."""
        return self.vision_model.apply({"params": params["vision_model"]}, pixels)

    def encode_gen(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Int[Array, "B N"]:
        """Codes of images to generate, in raster order, from pixels in [-1, 1]."""
        return self.vqmodel.apply({"params": params["vqmodel"]}, pixels, method="encode")

    def decode_gen(
        self, params: Params, codes: Int[Array, "B N"]
    ) -> Float[Array, "B height width 3"]:
        """Pixels in [-1, 1] (not clipped) of image codes."""
        return self.vqmodel.apply({"params": params["vqmodel"]}, codes, method="decode")

    def embed_text(self, params: Params, ids: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        p = {"params": params["language_model"]}
        return self.language_model.apply(p, ids, method="embed")

    def embed_und(self, params: Params, features: Float[Array, "*b Dv"]) -> Float[Array, "*b D"]:
        return self.aligner.apply({"params": params["aligner"]}, features)

    def embed_codes(self, params: Params, codes: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        table = {"params": params["generation_embeddings"]}
        x = self.generation_embeddings.apply(table, codes)
        return self.generation_aligner.apply({"params": params["generation_aligner"]}, x)

    def _und_features(self, params: Params, slots: ImageSlots) -> Float[Array, "B I N Dv"]:
        if slots.features is not None:
            return slots.features
        b, i, h, w, _ = slots.pixels.shape
        pixels = to_signed(slots.pixels.reshape(b * i, h, w, 3), self.dtype)
        features = self.encode_und(params, pixels)
        return lay(features.reshape(b, i, *features.shape[1:]), ROWS, WHOLE, POSITIONS, WHOLE)

    def _gen_codes(self, params: Params, slots: ImageSlots) -> Int[Array, "B I N"]:
        if slots.codes is not None:
            return slots.codes
        b, i, h, w, _ = slots.pixels.shape
        pixels = to_signed(slots.pixels.reshape(b * i, h, w, 3), self.dtype)
        codes = lay(self.encode_gen(params, pixels), ROWS, WHOLE)
        return lay(codes.reshape(b, i, -1), ROWS, WHOLE, POSITIONS)

    def embed(
        self, params: Params, batch: PackedBatch, codes: Int[Array, "B I N"] | None = None
    ) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input."""
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if batch.und is not None:
            und = self.embed_und(params, self._und_features(params, batch.und))
            x = _place(x, und, batch, Kind.UND)
        if codes is not None:
            x = _place(x, self.embed_codes(params, codes), batch, Kind.GEN)
        return x

    def hidden(
        self, params: Params, batch: PackedBatch
    ) -> tuple[Float[Array, "B T D"], Int[Array, "B I N"] | None]:
        """Hidden states after the final norm, and the image codes of the batch."""
        codes = None if batch.gen is None else self._gen_codes(params, batch.gen)
        x = self.embed(params, batch, codes)
        kv_start, kv_end = packed_intervals(batch.segment, batch.kind, batch.image)
        p = {"params": params["language_model"]}
        hidden, _ = self.language_model.apply(p, x, batch.position, kv_start, kv_end)
        return hidden, codes

    # Outputs

    def text_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        p = {"params": params["language_model"]}
        return self.language_model.apply(p, hidden, method="logits")

    def code_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b K"]:
        head = {"params": params["generation_head"]}
        return self.generation_head.apply(head, hidden).astype(jnp.float32)

    # The same, of as many classes as `p` holds: a device may have some of them only.

    def _text_head(self, p: Params, hidden: Float[Array, "n D"]) -> Float[Array, "n V"]:
        text = dataclasses.replace(self.config.text, vocab_size=p["kernel"].shape[-1])
        llama = Llama(text, **self._kinds)
        return llama.apply({"params": {"lm_head": p}}, hidden, method="logits")

    def _code_head(self, p: Params, hidden: Float[Array, "n D"]) -> Float[Array, "n K"]:
        head = self.generation_head.clone(num_codes=p["vision_head"]["kernel"].shape[-1])
        return head.apply({"params": p}, hidden)

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """Both terms are means over all target tokens: no weight per task (section 3.3)."""
        whole = jnp.sum(jnp.where(batch.target_kind != Target.NONE, batch.weight, 0.0))
        return {"text": whole, "code": whole}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        one = jnp.ones(())
        count = lambda x: (jnp.sum(x.astype(jnp.float32)), one)  # noqa: E731
        learned = batch.weight > 0
        text = learned & (batch.target_kind == Target.TEXT)
        understands = _same_document_has(batch, Kind.UND)
        padding = batch.kind == Kind.PAD
        return {
            "tokens": count(~padding),
            "tokens/text": count(batch.kind == Kind.TEXT),
            "tokens/und": count(batch.kind == Kind.UND),
            "tokens/gen": count(batch.kind == Kind.GEN),
            "text/targets": count(text & ~understands),
            "understanding/targets": count(text & understands),
            "code/targets": count(learned & (batch.target_kind == Target.CODE)),
            "documents": count(jnp.max(batch.segment, axis=1)),
            "padding": (jnp.sum(padding.astype(jnp.float32)), jnp.float32(padding.size)),
        }

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of the text head and of the image head."""
        del key, step
        hidden, codes = self.hidden(params, batch)
        text_weight = jnp.where(batch.target_kind == Target.TEXT, batch.weight, 0.0)
        lm_head = params["language_model"]["lm_head"]
        text = head_loss(
            self._text_head,
            lm_head,
            hidden,
            jnp.where(batch.target_kind == Target.TEXT, batch.target, 0),
            text_weight,
            chunk=self.config.head_chunk,
            by_class=True,
            frozen=_all_frozen("language_model/lm_head", lm_head, frozen),
        )
        sums = {"text": text.sum}
        understands = _same_document_has(batch, Kind.UND)
        metrics = _mean_of("text", text, jnp.where(understands, 0.0, text_weight))
        metrics |= _mean_of("understanding", text, jnp.where(understands, text_weight, 0.0))

        if codes is None:
            sums["code"] = jnp.zeros(())
            return sums, metrics
        code_weight = jnp.where(batch.target_kind == Target.CODE, batch.weight, 0.0)
        address = jnp.where(batch.target_kind == Target.CODE, batch.target, 0)
        answers = jnp.take_along_axis(codes.reshape(codes.shape[0], -1), address, axis=1)
        code = head_loss(
            self._code_head,
            params["generation_head"],
            hidden,
            answers,
            code_weight,
            chunk=self.config.head_chunk,
            by_class={"proj_out": False, "vision_head": True},
            frozen=_all_frozen("generation_head", params["generation_head"], frozen),
        )
        sums["code"] = code.sum
        return sums, metrics | _mean_of("code", code, code_weight)

    def forward_flops(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        """By part, padding and empty image slots excluded; attention by its intervals."""
        c = self.config
        count = lambda x: jnp.sum(x.astype(jnp.float32))  # noqa: E731
        intervals = packed_intervals(batch.segment, batch.kind, batch.image)
        pairs, pairs_if_causal = attention_pairs(*intervals)
        text_targets = count((batch.target_kind == Target.TEXT) & (batch.weight > 0))
        code_targets = count((batch.target_kind == Target.CODE) & (batch.weight > 0))
        und, gen = count(batch.kind == Kind.UND), count(batch.kind == Kind.GEN)
        width, k, d = c.text.hidden_size, c.vq.num_embeddings, c.vq.embed_dim
        # Counts of published sizes do not fit into 32 bits.
        per_token, per_pair = map(float, (c.text.flops_per_token(), c.text.flops_per_pair()))
        flops = {
            "language_model": count(batch.kind != Kind.PAD) * per_token
            + text_targets * float(2 * width * c.text.vocab_size),
            "attention": (pairs_if_causal if as_causal else pairs) * per_pair,
            "aligner": und * float(2 * (c.vision.hidden_size + width) * width),
            "generation_aligner": gen * float(2 * (d + width) * width),
            "generation_head": code_targets * float(2 * (width + k) * width),
        }
        if batch.und is not None and batch.und.features is None:
            per_image = float(c.vision.flops_per_image())
            flops["vision_model"] = count(batch.und.weight) * per_image
        if batch.gen is not None and batch.gen.codes is None:
            per_image = float(c.vq.encode_flops_per_image())
            flops["vqmodel"] = count(batch.gen.weight) * per_image
        return flops


def _all_frozen(group: str, params: Params, frozen: frozenset[str]) -> bool:
    return all(f"{group}/{path}" in frozen for path in tree.flatten(params))


def _place(
    x: Float[Array, "B T D"],
    images: Float[Array, "B I N D"],
    batch: PackedBatch,
    kind: Kind,
) -> Float[Array, "B T D"]:
    """`x` with the addressed image token where the input is of `kind`."""
    here = batch.kind == kind
    # Any position may show any image token of its row.
    images = lay(images, ROWS, WHOLE, WHOLE, WHOLE)
    flat = images.reshape(images.shape[0], -1, images.shape[-1])
    address = jnp.where(here, batch.tokens, 0)
    found = jnp.take_along_axis(flat, address[..., None], axis=1)
    return jnp.where(here[..., None], lay(found, ROWS, POSITIONS, WHOLE), x)


def _same_document_has(batch: PackedBatch, kind: Kind) -> Bool[Array, "B T"]:
    """Whether the document of a position holds an input of `kind`."""

    def row(segment, has):
        by_segment = jnp.zeros(segment.shape[0] + 1, bool).at[segment].max(has)
        return by_segment[segment]

    return jax.vmap(row)(batch.segment, batch.kind == kind)


def _mean_of(name: str, loss: HeadLoss, weight: Float[Array, "B T"]) -> Metrics:
    """Loss and accuracy of the positions with weight."""
    total = jnp.sum(weight)
    return {
        f"{name}/loss": (jnp.sum(weight * loss.nll), total),
        f"{name}/accuracy": (jnp.sum(weight * loss.correct), total),
    }
