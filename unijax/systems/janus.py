"""Janus and Janus-Pro: one causal decoder, two visual paths in, two heads out.

Understanding and generation are decoupled (arXiv 2410.13848, section 3.1): an image to understand
enters as features of its patches (SigLIP's as published, or another's of `models.towers`) through
an adaptor; an image to generate enters as codes of a VQ tokenizer through a code table and an
adaptor of its own, and leaves through an image head. Attention is causal everywhere. The loss is
plain cross-entropy on text ids and on image codes (section 3.3), one mean over all target tokens of
the step.
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
from unijax.core.errors import UserError
from unijax.core.making import Codes
from unijax.core.record import added
from unijax.core.stream import Layout, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import llama, siglip, vqgan
from unijax.models.llama import LlamaConfig
from unijax.models.semantic import CodesConfig
from unijax.models.towers import NAMES, Tower, TowerConfig, check_whole
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
    """Sizes of the parts. Image codes come from `vq`, adaptors end at the decoder's width.

    Attributes:
      one_encoder: codes enter as the features that the tower for understanding has of them, in
        place of rows of a code table (the paper's ablation B; table 5).

    Raises:
      UserError: for a tower that does not show every patch, or more of them than a document holds;
        for one that has no features of codes, where these are wanted.
    """

    text: LlamaConfig
    vision: TowerConfig
    vq: VQConfig
    head_chunk: int = 512  # positions of a device whose logits exist at one time
    one_encoder: bool = added(False)

    def __post_init__(self):
        if self.one_encoder and getattr(self.vision, "vq", None) != self.vq:
            raise UserError(
                "model.one_encoder", f"a {NAMES[self.vision.kind]} tower for understanding",
                "model.vision of kind 'codes', whose vq is model.vq",
                "Set model.vision so, or model.one_encoder=false.",
            )  # fmt: skip
        check_whole("model.vision", self.vision)
        most = self.text.max_position_embeddings
        if self.vision.num_tokens >= most:
            raise UserError(
                "model.vision",
                f"{self.vision.num_tokens} patches of a picture",
                f"fewer than model.text.max_position_embeddings={most}",
                "Make pictures smaller or patches larger.",
            )


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
    keeps = ("vqmodel/",)
    rows_alone = True
    sees_whole = ()

    @property
    def unused(self) -> tuple[str, ...]:
        """Of VQ tokenizers what makes pictures; a step makes codes."""
        makes = ImageCodes.unused
        if isinstance(self.config.vision, CodesConfig):
            makes += tuple(f"vision_model/{path}" for path in makes)
        return makes

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
        one = self.config.one_encoder
        return Codes(
            "gen", self.config.vq.num_tokens, "code_logits", "embed_code" if one else "embed_codes",
            "encode_codes", "decode_codes", "vqmodel", embeds_all=one,
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        width = vision.hidden_size // vision.num_attention_heads
        return {"language_model": self.config.text.head_dim, "vision_model": width}

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

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
        into = {} if self.config.one_encoder else {"in_axis": axes.CODE_DIM}
        return Projector(self.config.text.hidden_size, **into, **self._kinds)

    @property
    def _code_width(self) -> int:
        """Of what the generation adaptor takes in."""
        c = self.config
        return c.vision.hidden_size if c.one_encoder else c.vq.embed_dim

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
        picture = jnp.zeros((1, c.vq.image_size, c.vq.image_size, 3), self.dtype)
        features = jnp.zeros((1, 1, c.vision.hidden_size), self.dtype)
        code = jnp.zeros((1, 1, self._code_width), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vision_model": self.vision_model.init,
            "vqmodel": lambda k: self.vqmodel.init(k, picture),
            "aligner": lambda k: self.aligner.init(k, features),
            "generation_embeddings": lambda k: self.generation_embeddings.init(k, ids),
            "generation_aligner": lambda k: self.generation_aligner.init(k, code),
            "generation_head": lambda k: self.generation_head.init(k, hidden),
        }
        if c.one_encoder:
            del parts["generation_embeddings"]
        keys = jax.random.split(key, len(parts))
        return {name: fn(k)["params"] for (name, fn), k in zip(parts.items(), keys)}

    # Inputs

    def encode_und(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        """Features of images to understand, from pixels in [-1, 1]."""
        return self.vision_model.patches(params["vision_model"], pixels)

    def embed_und(self, params: Params, features: Float[Array, "*b Dv"]) -> Float[Array, "*b D"]:
        return self.aligner.apply({"params": params["aligner"]}, features)

    def embed_codes(self, params: Params, codes: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """Inputs of codes; with one encoder, of all codes of pictures `[..., N]`."""
        if self.config.one_encoder:
            n = self.config.vq.num_tokens
            x = self.vision_model.of_codes(params["vision_model"], codes.reshape(-1, n))
            x = x.reshape(*codes.shape, -1)
        else:
            table = {"params": params["generation_embeddings"]}
            x = self.generation_embeddings.apply(table, codes)
        return self.generation_aligner.apply({"params": params["generation_aligner"]}, x)

    def embed_code(
        self, params: Params, codes: Int[Array, "B N"], at: Int[Array, ""]
    ) -> Float[Array, "B D"]:
        """The input of one code, of which those up to it are known."""
        x = self.vision_model.of_codes(params["vision_model"], codes)
        one = jax.lax.dynamic_index_in_dim(x, at, axis=1, keepdims=False)
        return self.generation_aligner.apply({"params": params["generation_aligner"]}, one)

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
        into_und, into_gen = vision.hidden_size, self._code_width
        shared = ()
        if self.config.one_encoder:
            each = vision.semantic_flops_per_image() / vision.num_tokens
            shared = (Cost("semantic", "tower", "vision_model", cost.tokens_of("gen"), each),)
        return (
            *shared,
            *text.costs("language_model"),
            Cost("adaptors", "adaptor", "aligner", cost.tokens_of("und"),
                 2.0 * (into_und + width) * width),
            Cost("adaptors", "adaptor", "generation_aligner", cost.tokens_of("gen"),
                 2.0 * (into_gen + width) * width),
            Cost("image head", "head", "generation_head", cost.targets("code"),
                 2.0 * (width + codes) * width),
            Cost(self.vision_model.name, "tower", "vision_model", cost.encoded_of("und"),
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
        found = {"language_model/embed_tokens/embedding": cost.TOKENS}
        if not self.config.one_encoder:
            found["generation_embeddings/embedding"] = cost.tokens_of("gen")
        return found


RECIPE = Recipe("janus", Janus, JanusConfig, "rows", SIZES, "unijax.systems.janus_ladders:LADDERS")
