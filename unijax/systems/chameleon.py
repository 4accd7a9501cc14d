"""Chameleon: one decoder over one vocabulary of text ids and image codes (arXiv 2405.09818).

An image is a run of codes between two marks, each code an id of the text table: the same embedding,
the same head, plain causal attention, next-token cross-entropy on all tokens, and a z-loss on the
log-normaliser (section 2.2). Also the baseline of Transfusion (arXiv 2408.11039, section 4.2), with
that paper's image tokenizer and sizes.

Code k is the id `first_code + k`. Released checkpoints order their image ids by name; import and
export permute the codebook instead (`interop`), so that no table is needed here.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.making import Codes
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import llama
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.ops import rows
from unijax.ops.cross_entropy import head_loss
from unijax.systems.codes import ImageCodes
from unijax.systems.language import Language, mean_of
from unijax.systems.slots import values_of

IMAGE = "image"  # the one array of slots: images to read and to make are the same to this system


@dataclasses.dataclass(frozen=True)
class ChameleonConfig:
    """Sizes of the parts, and the objective.

    Attributes:
      text: the decoder, with image codes among its vocabulary.
      vq: the image tokenizer; frozen.
      first_code: the id of image code 0.
      z_weight: of the squared log-normaliser; section 2.2 has 1e-5.
      guidance: of drawing; Transfusion's section 4.1 has 5 for this baseline.
      head_chunk: positions of a device whose logits exist at one time.

    Raises:
      UserError: codes beyond the vocabulary, or numbers out of range.
    """

    text: LlamaConfig
    vq: VQConfig
    first_code: int
    z_weight: float = 1e-5
    guidance: float = 5.0
    head_chunk: int = 512

    def __post_init__(self):
        check_numbers(self, "model", {"z_weight": NOT_NEGATIVE, "guidance": NOT_NEGATIVE})
        last = self.first_code + self.vq.num_embeddings
        if self.first_code < 0 or last > self.text.vocab_size:
            raise UserError(
                "model.first_code",
                f"{self.first_code}, with {self.vq.num_embeddings} codes from there",
                f"ids below model.text.vocab_size={self.text.vocab_size}",
                "Change one of them.",
            )


@dataclasses.dataclass(frozen=True)
class Chameleon(ImageCodes, Language):
    """The recipe.

    Parameter groups: `language_model`, and `vqmodel`, which every stage freezes.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the decoder's layers: "none", "dots" or "full".
    """

    config: ChameleonConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vqmodel"})
    keeps = ("vqmodel/",)
    rows_alone = True
    sees_whole = ()

    @property
    def layout(self) -> Layout:
        vq = self.config.vq
        marks = {"before": Mark("boi", learned=True), "after": Mark("eoi", learned=True)}

        def stream(role: str) -> Stream:
            return Stream(
                role, IMAGE, Kind.GEN, vq.num_tokens, vq.image_size, target=Target.CODE, **marks
            )

        return Layout((stream("und"), stream("gen")))

    @property
    def encoded(self) -> dict[str, Encoded]:
        shape = (self.config.vq.num_tokens,)
        return {IMAGE: Encoded("vqmodel", "codes", shape, "int32", "encode_codes")}

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "text after an image"),
            "prompt": Loss("nats a token", "gen", "text before an image"),
            "code": Loss("nats a token", "gen", "image codes"),
        }

    @property
    def maker(self) -> Codes:
        return Codes(
            "gen", self.config.vq.num_tokens, "code_logits", "embed_codes", "encode_codes",
            "decode_codes", "vqmodel", self.config.guidance,
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        return {"language_model": self.config.text.head_dim}

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        side = self.config.vq.image_size
        ids, picture = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, side, side, 3), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vqmodel": lambda k: self.vqmodel.init(k, picture),
        }
        return {name: fn(named(key, name))["params"] for name, fn in parts.items()}

    # Inputs

    def embed_codes(self, params: Params, codes: Int[Array, "*b"]) -> Float[Array, "*b D"]:
        """Rows of the table of text ids."""
        return self.embed_text(params, self.config.first_code + codes)

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding: one table for text and codes."""
        return self.embed_text(params, self._ids(params, batch)[0])

    def _ids(self, params: Params, batch: PackedBatch) -> tuple[Array, Array]:
        """Of every position: the id of its input, and of its answer, where it has one."""
        ids = jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0)
        answers = jnp.where(batch.target_kind == Target.TEXT, batch.target, 0)
        if IMAGE not in batch.images:
            return ids, answers
        codes = self.config.first_code + values_of(self, params, batch, IMAGE)
        shown, made = batch.kind == Kind.GEN, batch.target_kind == Target.CODE
        ids = jnp.where(shown, rows.answers(codes, batch.tokens, shown), ids)
        return ids, jnp.where(made, rows.answers(codes, batch.target, made), answers)

    # Outputs

    def _is_code(self) -> Array:
        ids = jnp.arange(self.vocab_size)
        first = self.config.first_code
        return (ids >= first) & (ids < first + self.config.vq.num_embeddings)

    def text_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Of text ids; those of image codes are never text."""
        logits = self.head_logits(params, hidden)
        return jnp.where(self._is_code(), jnp.finfo(jnp.float32).min, logits)

    def code_logits(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b K"]:
        """Of image codes alone."""
        first = self.config.first_code
        logits = self.head_logits(params, hidden)
        return logits[..., first : first + self.config.vq.num_embeddings]

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """One mean over all target tokens, whatever they are of."""
        learned = jnp.where(batch.target_kind != Target.NONE, batch.weight, 0.0)
        return {"tokens": jnp.sum(learned)}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        return rows.counts(batch, self.layout, _parts(batch))

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy and z-loss of the one head."""
        del step
        ids, answers = self._ids(params, batch)
        hidden = self.states(params, self.embed_text(params, ids), batch, key)
        weight = jnp.where(batch.target_kind != Target.NONE, batch.weight, 0.0)
        path, head = self._head(params)
        found = head_loss(
            self._text_head,
            head,
            hidden,
            answers,
            weight,
            chunk=self.config.head_chunk,
            by_class=True,
            frozen=path in frozen,
            z_weight=self.config.z_weight,
        )
        metrics: Metrics = {}
        for name, here in _parts(batch).items():
            metrics |= mean_of(name, found, jnp.where(here, weight, 0.0))
        return {"tokens": found.sum}, metrics

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        text, vq = self.config.text, self.config.vq
        *decoder, head = text.costs("language_model")
        return (
            *decoder,
            head,
            dataclasses.replace(head, name="image head", unit=cost.targets("code")),
            Cost("VQ", "tower", "vqmodel", cost.encoded_of(IMAGE),
                 float(vq.encode_flops_per_image()), backward=False),
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        each = 1 / self.config.vq.num_tokens
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "image codes": {
                cost.TOKENS: 1.0, cost.targets("code"): 1.0, cost.encoded_of(IMAGE): each,
            },
        }  # fmt: skip

    @property
    def lookups(self) -> dict[str, str]:
        return {"language_model/embed_tokens/embedding": cost.TOKENS}


def _parts(batch: PackedBatch) -> dict[str, Array]:
    """Whether a position answers with text of each place, or with a code, by name of the loss."""
    text = batch.target_kind == Target.TEXT
    places = rows.beside_images(batch, Kind.GEN)
    return {name: text & here for name, here in places.items()} | {
        "code": batch.target_kind == Target.CODE
    }


_IMAGES = VQConfig(
    512, 128, (1, 1, 2, 2, 4), 2, 256, 256, 8192, coarse_attention=False, unit_codes=False
)
SIZES = {
    "chameleon_7b": ChameleonConfig(llama.SIZES["chameleon_7b"], _IMAGES, 4),
    "chameleon_34b": ChameleonConfig(llama.SIZES["chameleon_34b"], _IMAGES, 4),
}

RECIPE = Recipe(
    "chameleon",
    Chameleon,
    ChameleonConfig,
    "rows",
    SIZES,
    "unijax.systems.chameleon_ladders:LADDERS",
)
