"""Training of a small understanding encoder: image and text agree (SigLIP, arXiv 2303.15343).

Every pair of an image and a text of the batch is a yes-or-no question with the logit
`exp(t') x.y + b` of unit vectors x and y; t' starts at log 10 and b at -10 (section 3.1, algorithm
1). The loss is the sum over pairs over the number of images.

Our choices: pairs with equal texts are positives too, for several pictures may bear one caption;
an image is the mean of its tokens, projected (SigLIP pools with attention), and so is a text in the
shipped recipe (SigLIP takes its last token). Only `vision_model` is meant to be kept.
"""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from unijax.core import axes, cost
from unijax.core.batch import ImageBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.system import Loss, Metrics, Params, Recipe, Sums
from unijax.models.clip import ClipText, ClipTextConfig
from unijax.models.siglip import Siglip, SiglipConfig
from unijax.nn.layers import Dense
from unijax.ops.image import to_signed
from unijax.ops.quantize import unit_norm

INITIAL_SCALE = math.log(10.0)
INITIAL_BIAS = -10.0


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """The two towers, and the width in which they are compared."""

    vision: SiglipConfig
    text: ClipTextConfig
    embed_dim: int = 128


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """The recipe. Eats `ImageBatch` with texts.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the layers of both towers: "none", "dots" or "full".
    """

    config: ContrastiveConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vision_model", "text_model"})
    rows_alone = False  # every image meets every text

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        towers = {"vision_model": self.config.vision, "text_model": self.config.text}
        return {name: c.hidden_size // c.num_attention_heads for name, c in towers.items()}

    @property
    def _kinds(self) -> dict:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def vision_model(self) -> Siglip:
        return Siglip(self.config.vision, remat=self.remat, **self._kinds)

    @property
    def text_model(self) -> ClipText:
        return ClipText(self.config.text, remat=self.remat, **self._kinds)

    @property
    def projection(self) -> Dense:
        """From a tower's mean to the common width; each tower has parameters of its own."""
        names = (axes.VISION_EMBED, axes.NORM)
        return Dense(self.config.embed_dim, names, use_bias=False, **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        c = self.config
        keys = jax.random.split(key, 4)
        pixels = jnp.zeros((1, c.vision.image_size, c.vision.image_size, 3), self.dtype)
        ids, length = jnp.zeros((1, c.text.max_length), jnp.int32), jnp.ones(1, jnp.int32)
        image = jnp.zeros((1, c.vision.hidden_size), self.dtype)
        text = jnp.zeros((1, c.text.hidden_size), self.dtype)

        def scalar(value):
            return nn.LogicallyPartitioned(jnp.full((), value, self.param_dtype), ())

        return {
            "vision_model": self.vision_model.init(keys[0], pixels)["params"],
            "text_model": self.text_model.init(keys[1], ids, length)["params"],
            "vision_projection": self.projection.init(keys[2], image)["params"],
            "text_projection": self.projection.init(keys[3], text)["params"],
            "similarity": {"scale": scalar(INITIAL_SCALE), "bias": scalar(INITIAL_BIAS)},
        }

    def embed_images(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B D"]:
        """Unit vectors of pictures in -1..1."""
        features = self.vision_model.apply({"params": params["vision_model"]}, pixels)
        mean = jnp.mean(features, axis=1)
        return unit_norm(self.projection.apply({"params": params["vision_projection"]}, mean))

    def embed_texts(
        self, params: Params, text: Int[Array, "B S"], length: Int[Array, "B"]
    ) -> Float[Array, "B D"]:
        """Unit vectors of right-padded texts."""
        mean = self.text_model.apply({"params": params["text_model"]}, text, length)
        return unit_norm(self.projection.apply({"params": params["text_projection"]}, mean))

    def weights(self, batch: ImageBatch) -> Sums:
        """The sum over pairs is divided by the number of images."""
        return {"contrastive": jnp.sum(batch.weight)}

    def counts(self, batch: ImageBatch) -> Metrics:
        """Images that are not filling."""
        return {"images": (jnp.sum(batch.weight), jnp.ones(()))}

    def loss(
        self,
        params: Params,
        batch: ImageBatch,
        key: Array | None,
        step: Array,
        frozen: frozenset[str],
    ) -> tuple[Sums, Metrics]:
        """Summed loss over pairs of images and texts that count, and metrics.

        Raises:
          UserError: if the batch has no texts, or longer ones than the tower reads.
        """
        del key, step, frozen
        longest = self.config.text.max_length
        if batch.text is None or batch.text.shape[1] > longest:
            raise UserError(
                "data.text_length",
                "0" if batch.text is None else f"{batch.text.shape[1]}",
                f"1 to model.text.max_length={longest}",
                "Change one of them.",
            )
        images = self.embed_images(params, to_signed(batch.pixels, self.dtype))
        texts = self.embed_texts(params, batch.text, batch.text_length)
        scale, bias = (params["similarity"][k].astype(jnp.float32) for k in ("scale", "bias"))
        cosine = images @ texts.T
        same = equal_texts(batch.text, batch.text_length)
        pairs = pair_loss(jnp.exp(scale) * cosine + bias, same)
        both = batch.weight[:, None] * batch.weight
        sums = {"contrastive": jnp.sum(both * pairs)}
        count = jnp.sum(batch.weight)
        # A text that is only filling is never the answer.
        best = jnp.argmax(jnp.where(batch.weight > 0, cosine, -jnp.inf), axis=1)
        found = jnp.take_along_axis(same, best[:, None], axis=1)[:, 0]
        ones = jnp.ones(())
        return sums, {
            "image_to_text": (jnp.sum(batch.weight * found), count),
            "scale": (jnp.exp(scale), ones),
            "bias": (bias, ones),
        }

    def amounts(self, batch: ImageBatch, as_causal: bool = False) -> dict[str, Array]:
        """Texts count as long as the longest that the batch has room for."""
        del as_causal  # no packed rows
        images, tokens = jnp.sum(batch.weight), batch.text.shape[1]
        return {
            cost.IMAGES: images,
            cost.PAIRS: images**2,  # every picture with every text
            "tokens/text": images * float(tokens),
            "pairs/text": images * float(self.config.text.pairs_per_text(tokens)),
        }

    @property
    def costs(self) -> tuple[Cost, ...]:
        vision, text, width = self.config.vision, self.config.text, self.config.embed_dim
        last = float(text.last_flops_per_token())
        return (
            Cost("vision", "tower", "vision_model", cost.IMAGES,
                 float(vision.flops_per_image()), float(vision.last_flops_per_image())),
            Cost("text", "tower", "text_model", "tokens/text", float(text.flops_per_token()), last),
            Cost("text", "tower", "text_model", "pairs/text", float(text.flops_per_pair()), 0.0),
            Cost("projections", "adaptor", "vision_projection", cost.IMAGES,
                 2.0 * vision.hidden_size * width),
            Cost("projections", "adaptor", "text_projection", cost.IMAGES,
                 2.0 * text.hidden_size * width),
            Cost("similarity", "head", "similarity", cost.PAIRS, 2.0 * width),
        )  # fmt: skip

    lookups: ClassVar[dict[str, str]] = {"text_model/token_embedding/embedding": "tokens/text"}
    unused = ()
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {}


def equal_texts(text: Int[Array, "B S"], length: Int[Array, "B"]) -> Bool[Array, "B B"]:
    """Whether two texts are the same ids; what stands behind their length is not compared."""
    behind = jnp.arange(text.shape[1]) >= length[:, None]
    ids = jnp.where(behind, -1, text)
    return jnp.all(ids[:, None] == ids[None], axis=-1)


def pair_loss(logits: Float[Array, "B B"], positive: Bool[Array, "B B"]) -> Float[Array, "B B"]:
    """`-log sigmoid(z logit)`, z = 1 for a positive pair and -1 otherwise."""
    return -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))


RECIPE = Recipe("contrastive", Contrastive, ContrastiveConfig, "pictures")
