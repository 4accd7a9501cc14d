"""Emu: a language model that reads and writes pictures as vectors of its own width.

BAAI's first Emu (arXiv 2307.05222; baaivision/Emu). A picture is a run of 32 vectors between two
marks: features of EVA-CLIP's giant, behind a norm, brought into an order by a causal transformer
(`models.cformer`). They are inputs of the decoder like words, and what it learns of them is the
next input: from the begin mark on, the state at each position says the embedding of the position
after it, the last one that of the end mark (33 in all), by a linear head and a mean square error
against what is not trained by it. Words are learned by cross-entropy; a mark is no word, so that a
picture begins where the caller puts the mark.

With a painter (`systems.painter`) a U-Net learns to make pictures of what the decoder says: of the
32 vectors that it regresses, it is told the noise of the picture's latents. In drawing they are
written one by one, and guided against those of an empty prompt.

Our choices, where paper and code are silent: the square error is a mean over a vector, then over
all vectors of a step, and counts as much as the cross-entropy; in training a condition that is
dropped is zeros.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes, cost
from unijax.core.batch import Kind, PackedBatch, Target
from unijax.core.bounds import NOT_NEGATIVE, check_numbers
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.making import Features
from unijax.core.stream import Layout, Stream
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models import autoencoder, cformer, eva, llama, unet
from unijax.models.cformer import CFormer, CFormerConfig
from unijax.models.llama import LlamaConfig
from unijax.models.towers import Tower, TowerConfig, check_whole
from unijax.nn.layers import Dense, LayerNorm
from unijax.ops import rows
from unijax.ops.image import to_signed
from unijax.systems.language import Language, mean_of
from unijax.systems.latents import noise_loss
from unijax.systems.painter import Painter, PainterConfig, Paints
from unijax.systems.slots import values_of

IMAGE = "image"  # the one array of slots: pictures are the same, read or made
NORM_EPSILON = 1e-6  # of the norm behind the tower


@dataclasses.dataclass(frozen=True)
class EmuConfig:
    """Sizes of the parts, and the objective.

    Attributes:
      text: the decoder.
      vision: the tower, all of whose tokens are read.
      cformer: what makes vectors of them.
      painter: the pixel decoder; None: none is trained, and nothing is painted.
      regress_read: whether pictures that are read are learned, too, as in pretraining; instruction
        tuning learns answers alone.
      regression_weight, noise_weight: of those losses, beside that of text.
      head_chunk: positions of a device whose logits exist at one time.

    Raises:
      UserError: sizes that do not fit each other, or a weight below 0.
    """

    text: LlamaConfig
    vision: TowerConfig
    cformer: CFormerConfig
    painter: PainterConfig | None = None
    regress_read: bool = True
    regression_weight: float = 1.0
    noise_weight: float = 1.0
    head_chunk: int = 512

    def __post_init__(self):
        weights = dict.fromkeys(("regression_weight", "noise_weight"), NOT_NEGATIVE)
        check_numbers(self, "model", weights)
        check_whole("model.vision", self.vision)
        if self.painter is not None:
            self.painter.check_width("the decoder's vectors", self.text.hidden_size)
            size, side = self.vision.image_size, self.painter.autoencoder.image_size
            if side < size:
                raise UserError(
                    "model.painter.autoencoder.image_size", f"{side}",
                    f"at least {size}, what the tower sees", "Change one of them.",
                )  # fmt: skip

    @property
    def num_tokens(self) -> int:
        """Positions of a picture."""
        return self.cformer.num_queries


@dataclasses.dataclass(frozen=True)
class Emu(Paints, Language):
    """The recipe.

    Parameter groups, by their names in the release: `language_model` (`decoder.lm`), `vision_model`
    (`visual`), `ln_visual`, `cformer`, `stu_regress_head`; with a painter `unet`, `autoencoder`.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the layers: "none", "dots" or "full".
    """

    config: EmuConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    rows_alone = True
    sees_whole = ()

    @property
    def encoders(self) -> frozenset[str]:
        return frozenset({"vision_model"} | ({"autoencoder"} if self.config.painter else set()))

    @property
    def unused(self) -> tuple[str, ...]:
        return () if self.config.painter is None else self.painter.unused

    @property
    def keeps(self) -> tuple[str, ...]:
        return () if self.config.painter is None else ("unet/", "autoencoder/")

    @property
    def layout(self) -> Layout:
        c = self.config
        # Pictures are painted at the size of the autoencoder, and seen smaller.
        side = c.vision.image_size if c.painter is None else c.painter.autoencoder.image_size

        def stream(role: str, kind: Kind, target: Target) -> Stream:
            return Stream(
                role, IMAGE, kind, c.num_tokens, side, target=target, unconditional="empty"
            )

        read = Target.FEATURE if c.regress_read else Target.NONE
        return Layout((stream("und", Kind.UND, read), stream("gen", Kind.GEN, Target.FEATURE)))

    @property
    def encoded(self) -> dict[str, Encoded]:
        vision = self.config.vision
        shape = (vision.num_tokens + self.vision_model.class_tokens, vision.hidden_size)
        return {IMAGE: Encoded("vision_model", "features", shape, "float32", "encode_features")}

    @property
    def losses(self) -> dict[str, Loss]:
        found = {
            "text": Loss("nats a token", "text", "text"),
            "understanding": Loss("nats a token", "und", "text behind a picture"),
            "regression": Loss("MSE", "gen", "vectors of pictures"),
        }
        if self.config.painter is not None:
            found["noise"] = Loss("MSE", "gen", "noise of pictures")
        return found

    @property
    def maker(self) -> Features | None:
        if self.config.painter is None:
            return None
        painting = self.painter.painting(
            condition="as_condition", predict="predict_noise", sampler="sampler_of"
        )
        return Features(
            "gen", self.config.num_tokens, "regress", "as_inputs", "encode_vectors",
            "decode_latents", "autoencoder", self.config.painter.guidance, painting,
        )  # fmt: skip

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        return {
            "language_model": self.config.text.head_dim,
            "vision_model": vision.hidden_size // vision.num_attention_heads,
            "cformer": self.config.cformer.head_dim,
        }

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def ln_visual(self) -> LayerNorm:
        return LayerNorm(NORM_EPSILON, **self._kinds)

    @property
    def cformer(self) -> CFormer:
        width = self.config.text.hidden_size
        return CFormer(self.config.cformer, width, self.remat, **self._kinds)

    @property
    def stu_regress_head(self) -> Dense:
        width = self.config.text.hidden_size
        return Dense(width, (axes.EMBED, axes.MLP), use_bias=False, **self._kinds)

    @property
    def painter(self) -> Painter:
        return Painter(self.config.painter, self.remat, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        ids = jnp.zeros((1, 1), jnp.int32)
        features = jnp.zeros((1, 1, self.config.vision.hidden_size), self.dtype)
        hidden = jnp.zeros((1, 1, self.config.text.hidden_size), self.dtype)
        parts = {
            "language_model": lambda k: self.language_model.init(k, ids, method="init_all"),
            "vision_model": self.vision_model.init,
            "ln_visual": lambda k: self.ln_visual.init(k, features),
            "cformer": lambda k: self.cformer.init(k, features),
            "stu_regress_head": lambda k: self.stu_regress_head.init(k, hidden),
        }
        if self.config.painter is not None:
            parts |= self.painter.inits
        return {name: fn(named(key, name))["params"] for name, fn in parts.items()}

    # Pictures as vectors

    def encode_features(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B M K"]:
        """All tokens of the tower, of pictures in -1..1, which are resized to what it sees."""
        return self.vision_model(params["vision_model"], self.vision_model.resized(pixels))

    def vectors(self, params: Params, features: Float[Array, "B M K"]) -> Float[Array, "B N D"]:
        """What the decoder reads of pictures, from the tokens of the tower."""
        x = self.ln_visual.apply({"params": params["ln_visual"]}, features.astype(self.dtype))
        return self.cformer.apply({"params": params["cformer"]}, x)

    def encode_vectors(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        return self.vectors(params, self.encode_features(params, pixels)).astype(jnp.float32)

    def regress(self, params: Params, hidden: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        """The next input that a state says, float32."""
        p = {"params": params["stu_regress_head"]}
        return self.stu_regress_head.apply(p, hidden).astype(jnp.float32)

    def as_inputs(self, params: Params, vectors: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        """Vectors are inputs already."""
        del params
        return vectors.astype(self.dtype)

    # What painting names

    def as_condition(self, params: Params, vectors: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """And conditions."""
        del params
        return vectors

    # Inputs

    def embed(self, params: Params, batch: PackedBatch) -> Float[Array, "B T D"]:
        """Every position's embedding, by the kind of its input."""
        return self._embed(params, batch)[0]

    def _embed(self, params: Params, batch: PackedBatch):
        x = self.embed_text(params, jnp.where(batch.kind == Kind.TEXT, batch.tokens, 0))
        if IMAGE not in batch.images:
            return x, None
        features = values_of(self, params, batch, IMAGE)
        b, i = features.shape[:2]
        vectors = self.vectors(params, features.reshape(b * i, *features.shape[2:]))
        vectors = vectors.reshape(b, i, *vectors.shape[1:])
        return rows.place(x, vectors, batch.tokens, _shown(batch)), vectors

    def _regressed(
        self, params: Params, x: Array, vectors: Array, hidden: Array, batch: PackedBatch
    ) -> tuple[Array, Array, Array]:
        """Of every picture what the N + 1 states from its begin mark on say, the inputs that follow
        them, both [B, I, N + 1, D], and their weights [B, I, N + 1]."""
        answers, shown = batch.target_kind == Target.FEATURE, _shown(batch)
        slots = vectors.shape[1:3]
        at_mark = rows.collect(hidden, batch.target, answers, slots)[:, :, :1]
        at_vectors = rows.collect(hidden, batch.tokens, shown, slots)
        behind = rows.collect(jnp.roll(x, -1, axis=1), batch.tokens, shown, slots)[:, :, -1:]
        weight = rows.collect(batch.weight[..., None], batch.target, answers, slots)[..., 0]
        said = self.regress(params, jnp.concatenate([at_mark, at_vectors], axis=2))
        wanted = jnp.concatenate([vectors, behind], axis=2).astype(jnp.float32)
        weight = jnp.concatenate([weight, weight[..., -1:]], axis=2)
        return said, jax.lax.stop_gradient(wanted), weight

    # What the loop knows

    def weights(self, batch: PackedBatch) -> Sums:
        """Means: over text's target tokens, over regressed vectors, over painted pictures."""
        of = lambda target: jnp.sum(jnp.where(batch.target_kind == target, batch.weight, 0.0))  # noqa: E731
        n, feature = self.config.num_tokens, of(Target.FEATURE)
        found = {"text": of(Target.TEXT), "regression": feature * (n + 1) / n}
        if self.config.painter is not None:
            found["noise"] = feature / n
        return found

    def counts(self, batch: PackedBatch) -> Metrics:
        """Tokens and targets by kind, documents, and the share of padding."""
        feature = {"regression": batch.target_kind == Target.FEATURE}
        return rows.counts(batch, self.layout, _texts(batch) | feature)

    def loss(
        self,
        params: Params,
        batch: PackedBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed cross-entropy, square errors of vectors, and with a painter those of noise.

        Raises:
          UserError: for a painter without pixels to learn.
        """
        del step
        x, vectors = self._embed(params, batch)
        hidden = self.states(params, x, batch, key)
        text, weight = self.text_loss(params, hidden, batch, frozen)
        sums, metrics = {"text": text.sum, "regression": jnp.zeros(())}, {}
        for name, here in _texts(batch).items():
            metrics |= mean_of(name, text, jnp.where(here, weight, 0.0))
        if self.config.painter is not None:
            sums["noise"] = jnp.zeros(())
        if vectors is None:
            return sums, metrics
        said, wanted, counted = self._regressed(params, x, vectors, hidden, batch)
        error = jnp.sum(counted * jnp.mean(jnp.square(said - wanted), axis=-1))
        sums["regression"] = self.config.regression_weight * error
        metrics["regression/loss"] = (error, jnp.sum(counted))
        if self.config.painter is not None:
            share = jnp.mean(counted[..., :-1], axis=-1)
            noise, of_noise = self._painted(params, batch, said[:, :, :-1], share, key)
            sums["noise"] = self.config.noise_weight * noise
            metrics |= of_noise
        return sums, metrics

    def _painted(self, params: Params, batch: PackedBatch, said: Array, share: Array, key):
        """Summed errors of the noise of pictures, each by its share, and metrics of them."""
        slots = batch.images[IMAGE]
        if slots.pixels is None:
            raise UserError(
                "cache_frozen", "features of the tower alone", "pictures, which the painter learns",
                "Set cache_frozen=false.",
            )  # fmt: skip
        flat = lambda y: y.reshape(-1, *y.shape[2:])  # noqa: E731
        seed, condition, share = flat(slots.seed), flat(said), flat(share)
        moments = self.painter.encode_moments(params, to_signed(flat(slots.pixels), self.dtype))
        if key is not None:
            condition = self.painter.dropped(condition, seed)
        error, timestep = self.painter.errors(params, moments, condition, seed)
        return noise_loss(error, share, timestep, self.config.painter.schedule)

    def amounts(self, batch: PackedBatch, as_causal: bool = False) -> dict[str, Array]:
        return rows.amounts(batch, self.layout, self.sees_whole, as_causal)

    @property
    def costs(self) -> tuple[Cost, ...]:
        c = self.config
        width, images = c.text.hidden_size, cost.images_of(IMAGE)
        tokens = c.vision.num_tokens + self.vision_model.class_tokens
        found = (
            *c.text.costs("language_model"),
            Cost("CFormer", "adaptor", "cformer", images,
                 float(c.cformer.flops_per_image(tokens, c.vision.hidden_size, width))),
            Cost("regression head", "adaptor", "stu_regress_head", images,
                 2.0 * (c.num_tokens + 1) * width * width),
            Cost(self.vision_model.name, "tower", "vision_model", cost.encoded_of(IMAGE),
                 float(c.vision.flops_per_image()), float(c.vision.last_flops_per_image())),
        )  # fmt: skip
        if c.painter is None:
            return found
        return found + self.painter.costs(images, cost.encoded_of(IMAGE), c.num_tokens)

    @property
    def modalities(self) -> dict[str, dict[str, float]]:
        each = 1 / self.config.num_tokens
        image = {cost.images_of(IMAGE): each, cost.encoded_of(IMAGE): each}
        return {
            "text": {cost.TOKENS: 1.0, cost.targets("text"): 1.0},
            "vectors": {cost.TOKENS: 1.0} | image,
        }

    @property
    def lookups(self) -> dict[str, str]:
        return {"language_model/embed_tokens/embedding": cost.TOKENS}


def _shown(batch: PackedBatch) -> Array:
    return (batch.kind == Kind.UND) | (batch.kind == Kind.GEN)


def _texts(batch: PackedBatch) -> dict[str, Array]:
    text = batch.target_kind == Target.TEXT
    sees = rows.same_document_has(_shown(batch), batch.segment)
    return {"text": text & ~sees, "understanding": text & sees}


def _published(vocab_size: int, painter: bool, regress_read: bool = True) -> EmuConfig:
    """Llama 13B with new ids: [PAD], [IMG], [/IMG] and <image>; two roles with the instructions."""
    decoder = PainterConfig(
        unet.SIZES["emu_unet"], autoencoder.SIZES["sd_vae"], drop=0.1, free="prompt"
    )
    return EmuConfig(
        dataclasses.replace(llama.SIZES["llama_13b"], vocab_size=vocab_size),
        dataclasses.replace(eva.SIZES["eva_giant_patch14_clip_224"], features="pre_norm"),
        cformer.SIZES["emu_cformer"],
        decoder if painter else None,
        regress_read,
    )


SIZES = {
    "emu_14b": _published(32004, painter=False),
    "emu_14b_painter": _published(32004, painter=True),
    "emu_14b_instruct": _published(32006, painter=False, regress_read=False),
}

RECIPE = Recipe("emu", Emu, EmuConfig, "rows", SIZES, "unijax.systems.emu_ladders:LADDERS")
