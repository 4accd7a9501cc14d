"""MetaMorph: a language model that writes a picture as features of a vision tower.

Visual-predictive instruction tuning (arXiv 2412.14164; the released code, facebookresearch/
metamorph). A picture is 64 features of a frozen SigLIP, pooled and of length one
(`systems.features`), between two marks. Read, they come through an adaptor; where the model answers
with a picture, it says with the state before each feature what that is, and the loss is minus the
cosine of the two: at the begin mark the first, at the last but one the last. Text, the marks among
it, is learned by cross-entropy where the assistant says it. Pictures of the user are read alone.

The features are a picture once the visualiser has painted it (`systems.visualiser`), which is
trained alone and stays as it is here.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.keys import named
from unijax.core.making import Features
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import llama
from unijax.models.llama import LlamaConfig
from unijax.models.towers import TowerConfig, check_whole
from unijax.nn.projector import Projector, VectorHead
from unijax.ops import rows
from unijax.ops.quantize import unit_norm
from unijax.systems.features import PooledFeatures, VisualiserConfig, check_visualiser
from unijax.systems.language import Language, mean_of
from unijax.systems.slots import values_of
from unijax.systems.visualiser import SIZES as VISUALISERS

IMAGE = "image"  # the one array of slots: pictures are the same, read or made


@dataclasses.dataclass(frozen=True)
class MetaMorphConfig:
    """Sizes of the parts, and the objective.

    Attributes:
      text: the decoder, with two ids for the marks.
      vision: the tower; frozen.
      visualiser: what paints features; frozen. None: nothing is painted.
      grid: features of a picture's side.
      image_weight: of the loss of features, beside that of text.
      head_chunk: positions of a device whose logits exist at one time.

    Raises:
      UserError: sizes that do not fit each other, or a weight below 0.
    """

    text: LlamaConfig
    vision: TowerConfig
    visualiser: VisualiserConfig | None = None
    grid: int = 8
    image_weight: float = 1.0
    head_chunk: int = 512

    def __post_init__(self):
        check_numbers(self, "model", {"image_weight": NOT_NEGATIVE})
        check_whole("model.vision", self.vision)
        check_visualiser(self)

    @property
    def num_tokens(self) -> int:
        """Positions of a picture."""
        return self.grid**2


@dataclasses.dataclass(frozen=True)
class MetaMorph(PooledFeatures, Language):
    """The recipe.

    Parameter groups: `language_model`, `aligner` into it, `vision_head` out of it, `vision_model`;
    with a visualiser its groups.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the layers: "none", "dots" or "full".
    """

    config: MetaMorphConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vision_model"})
    rows_alone = True
    sees_whole = ()

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.config.visualiser is None else ("condition", "unet", "autoencoder")

    @property
    def keeps(self) -> tuple[str, ...]:
        return tuple(f"{group}/" for group in ("vision_model", *self.unused))

    @property
    def layout(self) -> Layout:
        n, side = self.config.num_tokens, self.config.vision.image_size
        marks = {"before": Mark("boi", learned=True), "after": Mark("eoi", learned=True)}
        und = Stream("und", IMAGE, Kind.UND, n, side)
        gen = Stream(
            "gen", IMAGE, Kind.GEN, n, side, target=Target.FEATURE, unconditional="empty", **marks
        )
        return Layout((und, gen))

    @property
    def encoded(self) -> dict[str, Encoded]:
        return {IMAGE: self.features}

    @property
    def losses(self) -> dict[str, Loss]:
        return {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "answers about pictures"),
            "feature": Loss("1 - cosine", "gen", "features of pictures"),
        }

    @property
    def maker(self) -> Features | None:
        v = self.config.visualiser
        if v is None:
            return None
        painting = self.painter.painting(
            condition="conditioned", predict="predict_noise", sampler="sampler_of"
        )
        return Features(
            "gen", self.config.num_tokens, "predict", "embed_features", "encode_features",
            "decode_latents", "autoencoder", v.painter.guidance, painting,
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        width = vision.hidden_size // vision.num_attention_heads
        return {"language_model": self.config.text.head_dim, "vision_model": width}

    @property
    def aligner(self) -> Projector:
        return Projector(self.config.text.hidden_size, **self._kinds)

    @property
    def vision_head(self) -> VectorHead:
        text, vision = self.config.text, self.config.vision
        return VectorHead(text.hidden_size, vision.hidden_size, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        ids = jnp.zeros((1, 1), jnp.int32)
        feature = jnp.zeros((1, 1, self.config.vision.hidden_size), self.dtype)
        hidden = jnp.zeros((1, 1, self.config.text.hidden_size), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vision_model": self.vision_model.init,
            "aligner": lambda k: self.aligner.init(k, feature),
            "vision_head": lambda k: self.vision_head.init(k, hidden),
        } | self.visualiser_inits
        return {name: fn(named(key, name))["params"] for name, fn in parts.items()}

    # Inputs and outputs

    def embed_features(
        self, params: Params, features: Float[Array, "*b F"]
    ) -> Float[Array, "*b D"]:
        """Features as the decoder takes them."""
        p = {"params": params["aligner"]}
        return self.aligner.apply(p, features.astype(self.dtype))

    def predict(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b F"]:
        """The feature that a state answers with, of length one, float32."""
        p = {"params": params["vision_head"]}
        return unit_norm(self.vision_head.apply(p, hidden))

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input."""
        return self._embed(params, batch)[0]

    def _embed(self, params: Params, batch: PackedBatch):
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if IMAGE not in batch.images:
            return x, None
        features = values_of(self, params, batch, IMAGE)
        here = (batch.kind == Kind.UND) | (batch.kind == Kind.GEN)
        shown = self.embed_features(params, features)
        return rows.place(x, shown, batch.tokens, here), features

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """A mean over text's target tokens, and one over features."""
        of = lambda target: jnp.sum(jnp.where(batch.target_kind == target, batch.weight, 0.0))  # noqa: E731
        return {"text": of(Target.TEXT), "feature": of(Target.FEATURE)}

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        feature = {"feature": batch.target_kind == Target.FEATURE}
        return rows.counts(batch, self.layout, _texts(batch) | feature)

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy of the text head, and minus the cosines of features.

        The metric `feature/loss` is 1 less the mean cosine.
        """
        del step
        x, features = self._embed(params, batch)
        hidden = self.states(params, x, batch, key)
        text, weight = self.text_loss(params, hidden, batch, frozen)
        sums, metrics = {"text": text.sum, "feature": jnp.zeros(())}, {}
        for name, here in _texts(batch).items():
            metrics |= mean_of(name, text, jnp.where(here, weight, 0.0))
        if features is None:
            return sums, metrics
        here = batch.target_kind == Target.FEATURE
        nothing = jnp.zeros((*here.shape, features.shape[-1]), jnp.float32)
        wanted = rows.place(nothing, jax.lax.stop_gradient(features), batch.target, here)
        cosine = jnp.sum(self.predict(params, hidden) * wanted, axis=-1)
        counted = jnp.where(here, batch.weight, 0.0)
        sums["feature"] = -self.config.image_weight * jnp.sum(counted * cosine)
        metrics["feature/loss"] = (jnp.sum(counted * (1.0 - cosine)), jnp.sum(counted))
        return sums, metrics

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        text, vision = self.config.text, self.config.vision
        width, into = text.hidden_size, vision.hidden_size
        each = 2.0 * (into + width) * width
        return (
            *text.costs("language_model"),
            Cost("adaptor", "adaptor", "aligner", cost.tokens_of(IMAGE), each),
            Cost("vision head", "head", "vision_head", cost.targets("feature"), each),
            Cost(self.vision_model.name, "tower", "vision_model", cost.encoded_of(IMAGE),
                 float(vision.flops_per_image()), float(vision.last_flops_per_image())),
        )  # fmt: skip

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        n = self.config.num_tokens
        image = {cost.TOKENS: 1.0, cost.tokens_of(IMAGE): 1.0, cost.encoded_of(IMAGE): 1 / n}
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "understanding": image,
            "features": image | {cost.targets("feature"): 1.0},
        }

    @property
    def lookups(self) -> dict[str, str]:
        return {"language_model/embed_tokens/embedding": cost.TOKENS}


def _texts(batch: PackedBatch) -> dict[str, Array]:
    text = batch.target_kind == Target.TEXT
    understands = rows.same_document_has(batch.kind == Kind.UND, batch.segment)
    return {"text": text & ~understands, "understanding": text & understands}


# Llama 3.1 8B with its two new ids, SigLIP so400m, and the released visualiser.
_VISUALISER = VISUALISERS["metamorph_visualiser"]
SIZES = {
    "metamorph_8b": MetaMorphConfig(
        dataclasses.replace(llama.SIZES["llama3.1_8b"], vocab_size=128258),
        _VISUALISER.vision,
        _VISUALISER.visualiser,
    )
}

RECIPE = Recipe(
    "metamorph", MetaMorph, MetaMorphConfig, "rows", SIZES,
    "unijax.systems.metamorph_ladders:LADDERS",
)  # fmt: skip
