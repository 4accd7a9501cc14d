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
from jaxtyping import Float, Int

from unijax.core import axes, cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.cost import Cost
from unijax.core.making import Codes
from unijax.core.stream import Layout, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import llama, siglip, vqgan
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import Siglip, SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.nn.layers import Embed
from unijax.nn.projector import CodeHead, Projector
from unijax.ops import rows
from unijax.ops.cross_entropy import head_loss
from unijax.systems.codes import ImageCodes
from unijax.systems.language import Language, all_frozen, mean_of
from unijax.systems.slots import values_of


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
class Janus(ImageCodes, Language):
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
    sees_whole = ()

    @property
    def layout(self) -> Layout:
        """Images to read are padded to a square, those to make are cropped; marks are given."""
        vision, vq = self.config.vision, self.config.vq
        und = Stream("und", "und", Kind.UND, vision.num_tokens, vision.image_size, "pad")
        # Exactly N codes are drawn: the mark after them is never predicted.
        gen = Stream("gen", "gen", Kind.GEN, vq.num_tokens, vq.image_size, target=Target.CODE)
        return Layout((und, gen))

    @property
    def encoded(self) -> dict[str, Encoded]:
        vision, vq = self.config.vision, self.config.vq
        shape = (vision.num_tokens, vision.hidden_size)
        return {
            "und": Encoded("vision_model", "features", shape, "float32", "encode_und"),
            "gen": Encoded("vqmodel", "codes", (vq.num_tokens,), "int32", "encode_codes"),
        }

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "answers about pictures"),
            "code": Loss("nats a token", "gen", "image codes"),
        }

    @property
    def maker(self) -> Codes:
        return Codes(
            "gen", self.config.vq.num_tokens, "code_logits", "embed_codes", "encode_codes",
            "decode_codes", "vqmodel",
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        width = vision.hidden_size // vision.num_attention_heads
        return {"language_model": self.config.text.head_dim, "vision_model": width}

    @property
    def vision_model(self) -> Siglip:
        return Siglip(self.config.vision, remat=self.remat, **self._kinds)

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

    def embed_und(self, params: Params, features: Float[Array, "*b Dv"]) -> Float[Array, "*b D"]:
        return self.aligner.apply({"params": params["aligner"]}, features)

    def embed_codes(self, params: Params, codes: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        table = {"params": params["generation_embeddings"]}
        x = self.generation_embeddings.apply(table, codes)
        return self.generation_aligner.apply({"params": params["generation_aligner"]}, x)

    def embed(
        self, params: Params, batch: PackedBatch, codes: Int[Array, "B I N"] | None = None
    ) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input.

        Args:
          codes: of the images to generate, where they are known already.
        """
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if "und" in batch.images:
            und = self.embed_und(params, values_of(self, params, batch, "und"))
            x = rows.place(x, und, batch.tokens, batch.kind == Kind.UND)
        if codes is None and "gen" in batch.images:
            codes = values_of(self, params, batch, "gen")
        if codes is not None:
            made = self.embed_codes(params, codes)
            x = rows.place(x, made, batch.tokens, batch.kind == Kind.GEN)
        return x

    def hidden(
        self, params: Params, batch: PackedBatch, key: Array | None = None
    ) -> tuple[Float[Array, "B T D"], Int[Array, "B I N"] | None]:
        """Hidden states after the final norm, and the image codes of the batch."""
        codes = values_of(self, params, batch, "gen") if "gen" in batch.images else None
        return self.states(params, self.embed(params, batch, codes), batch, key), codes

    # Outputs

    def code_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b K"]:
        head = {"params": params["generation_head"]}
        return self.generation_head.apply(head, hidden).astype(jnp.float32)

    def _code_head(self, p: Params, hidden: Float[Array, "n D"]) -> Float[Array, "n K"]:
        """Of as many classes as `p` holds: a device may have some of them only."""
        head = self.generation_head.clone(num_codes=p["vision_head"]["kernel"].shape[-1])
        return head.apply({"params": p}, hidden)

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """Both terms are means over all target tokens: no weight per task (section 3.3)."""
        whole = jnp.sum(jnp.where(batch.target_kind != Target.NONE, batch.weight, 0.0))
        return {"text": whole, "code": whole}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        text = batch.target_kind == Target.TEXT
        understands = rows.same_document_has(batch.kind == Kind.UND, batch.segment)
        learned = {
            "text": text & ~understands,
            "understanding": text & understands,
            "code": batch.target_kind == Target.CODE,
        }
        return rows.counts(batch, self.layout, learned)

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of the text head and of the image head."""
        del step
        hidden, codes = self.hidden(params, batch, key)
        text, text_weight = self.text_loss(params, hidden, batch, frozen)
        sums = {"text": text.sum}
        understands = rows.same_document_has(batch.kind == Kind.UND, batch.segment)
        metrics = mean_of("text", text, jnp.where(understands, 0.0, text_weight))
        metrics |= mean_of("understanding", text, jnp.where(understands, text_weight, 0.0))

        if codes is None:
            sums["code"] = jnp.zeros(())
            return sums, metrics
        code_weight = jnp.where(batch.target_kind == Target.CODE, batch.weight, 0.0)
        answers = rows.answers(codes, batch.target, batch.target_kind == Target.CODE)
        code = head_loss(
            self._code_head,
            params["generation_head"],
            hidden,
            answers,
            code_weight,
            chunk=self.config.head_chunk,
            by_class={"proj_out": False, "vision_head": True},
            frozen=all_frozen("generation_head", params["generation_head"], frozen),
        )
        sums["code"] = code.sum
        return sums, metrics | mean_of("code", code, code_weight)

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        text, vision, vq = self.config.text, self.config.vision, self.config.vq
        width, codes = text.hidden_size, vq.num_embeddings
        into_und, into_gen = vision.hidden_size, vq.embed_dim
        return (
            *text.costs("language_model"),
            Cost("adaptors", "adaptor", "aligner", cost.tokens_of("und"),
                 2.0 * (into_und + width) * width),
            Cost("adaptors", "adaptor", "generation_aligner", cost.tokens_of("gen"),
                 2.0 * (into_gen + width) * width),
            Cost("image head", "head", "generation_head", cost.targets("code"),
                 2.0 * (width + codes) * width),
            Cost("SigLIP", "tower", "vision_model", cost.encoded_of("und"),
                 float(vision.flops_per_image()), float(vision.last_flops_per_image())),
            Cost("VQ", "tower", "vqmodel", cost.encoded_of("gen"),
                 float(vq.encode_flops_per_image()), backward=False),
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        n, k = self.config.vision.num_tokens, self.config.vq.num_tokens
        seen = {cost.tokens_of("und"): 1.0, cost.encoded_of("und"): 1 / n}
        made = {cost.tokens_of("gen"): 1.0, cost.encoded_of("gen"): 1 / k}
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "understanding": {cost.TOKENS: 1.0} | seen,
            "image codes": {cost.TOKENS: 1.0, cost.targets("code"): 1.0} | made,
        }

    @property
    def lookups(self) -> dict[str, str]:
        return {
            "language_model/embed_tokens/embedding": cost.TOKENS,
            "generation_embeddings/embedding": cost.tokens_of("gen"),
        }


RECIPE = Recipe("janus", Janus, JanusConfig, "rows", SIZES, "unijax.systems.janus_ladders:LADDERS")
