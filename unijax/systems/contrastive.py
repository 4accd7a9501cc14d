"""Two towers, of images and of texts, that agree: SigLIP, CLIP, EVA-CLIP.

With the sigmoid loss (SigLIP, arXiv 2303.15343) every pair of an image and a text of the batch is a
yes-or-no question with the logit `exp(t') x.y + b` of unit vectors x and y; t' starts at log 10 and
b at -10 (section 3.1, algorithm 1). With the softmax loss (CLIP, arXiv 2103.00020, figure 3;
EVA-CLIP, arXiv 2303.15389) each image is asked for its text among all, and each text for its image;
t' starts at log 1/0.07, there is no b, and a stage clamps t' at log 100. Both are sums over the
number of images, over the batch of all devices (`ops.pair_loss`).

Our choices of the small SigLIP that is shipped: pairs with equal texts are positives too, for
several pictures may bear one caption; an image is the mean of its tokens, projected (SigLIP pools
with attention), and so is a text (SigLIP takes its last token).
"""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from unijax.core import axes, cost
from unijax.core.batch import ImageBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.record import added
from unijax.core.system import Loss, Metrics, Params, Recipe, Sums
from unijax.models.clip import ClipText, ClipTextConfig
from unijax.models.towers import Tower, TowerConfig, check_pooling
from unijax.nn.layers import Dense
from unijax.ops.image import to_signed
from unijax.ops.pair_loss import sigmoid_loss, softmax_loss
from unijax.ops.quantize import unit_norm

# By loss: of the logarithm of the scale, and of the bias, where there is one.
INITIAL = {
    "sigmoid": {"scale": math.log(10.0), "bias": -10.0},
    "softmax": {"scale": math.log(1 / 0.07)},
}


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """The two towers, and how they are compared.

    Attributes:
      vision, text: the towers.
      embed_dim: width in which images and texts meet.
      loss: "sigmoid" or "softmax".
      vision_pooling: of an image's tokens: "mean" of the patches, or "class", the class token.
      vision_bias: whether the projection of images has one, as EVA-CLIP's.
      chunk: side of the tiles in which logits exist.

    Raises:
      UserError: for an unknown loss, or a pooling that the tower has not.
    """

    vision: TowerConfig
    text: ClipTextConfig
    embed_dim: int = 128
    loss: str = added("sigmoid")
    vision_pooling: str = added("mean")
    vision_bias: bool = added(False)
    chunk: int = added(1024)

    def __post_init__(self):
        if self.loss not in INITIAL:
            raise UserError(
                "model.loss", repr(self.loss), f"one of {[*INITIAL]}", "Correct the config."
            )
        if self.chunk < 1:
            raise UserError("model.chunk", f"{self.chunk}", "1 or more", "Correct the config.")
        check_pooling("model.vision_pooling", self.vision_pooling, self.vision)


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
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def text_model(self) -> ClipText:
        return ClipText(self.config.text, remat=self.remat, **self._kinds)

    @property
    def vision_projection(self) -> Dense:
        """From the feature of an image to the common width."""
        names = (axes.VISION_EMBED, axes.NORM)
        return Dense(self.config.embed_dim, names, self.config.vision_bias, **self._kinds)

    @property
    def text_projection(self) -> Dense:
        """From the feature of a text to the common width."""
        names = (axes.VISION_EMBED, axes.NORM)
        return Dense(self.config.embed_dim, names, use_bias=False, **self._kinds)

    @property
    def vocab_size(self) -> int:
        """Rows of the table of text ids."""
        return self.config.text.vocab_size

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        c = self.config
        keys = jax.random.split(key, 4)
        ids, length = jnp.zeros((1, c.text.max_length), jnp.int32), jnp.ones(1, jnp.int32)
        image = jnp.zeros((1, c.vision.hidden_size), self.dtype)
        text = jnp.zeros((1, c.text.hidden_size), self.dtype)

        def scalar(value):
            return nn.LogicallyPartitioned(jnp.full((), value, self.param_dtype), ())

        return {
            "vision_model": self.vision_model.init(keys[0])["params"],
            "text_model": self.text_model.init(keys[1], ids, length)["params"],
            "vision_projection": self.vision_projection.init(keys[2], image)["params"],
            "text_projection": self.text_projection.init(keys[3], text)["params"],
            "similarity": {name: scalar(value) for name, value in INITIAL[c.loss].items()},
        }

    def embed_images(
        self,
        params: Params,
        pixels: Float[Array, "B height width 3"],
        seed: UInt32[Array, " B"] | None = None,
    ) -> Float[Array, "B D"]:
        """Unit vectors of pictures in -1..1; `seed` of what is dropped of each in training."""
        pooling = self.config.vision_pooling
        x = self.vision_model.pooled(params["vision_model"], pixels, pooling, seed)
        return unit_norm(self.vision_projection.apply({"params": params["vision_projection"]}, x))

    def embed_texts(
        self, params: Params, text: Int[Array, "B S"], length: Int[Array, "B"]
    ) -> Float[Array, "B D"]:
        """Unit vectors of right-padded texts."""
        x = self.text_model.apply({"params": params["text_model"]}, text, length)
        return unit_norm(self.text_projection.apply({"params": params["text_projection"]}, x))

    def weights(self, batch: ImageBatch) -> Sums:
        """The sum is divided by the number of images."""
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
        """Summed loss of the images and texts that count, and metrics.

        Raises:
          UserError: if the batch has no texts, or longer ones than the tower reads.
        """
        del step, frozen
        longest = self.config.text.max_length
        if batch.text is None or batch.text.shape[1] > longest:
            raise UserError(
                "data.text_length",
                "0" if batch.text is None else f"{batch.text.shape[1]}",
                f"1 to model.text.max_length={longest}",
                "Change one of them.",
            )
        seed = None if key is None else batch.seed
        images = self.embed_images(params, to_signed(batch.pixels, self.dtype), seed)
        texts = self.embed_texts(params, batch.text, batch.text_length)
        similarity = {k: x.astype(jnp.float32) for k, x in params["similarity"].items()}
        scale, chunk = jnp.exp(similarity["scale"]), self.config.chunk
        if self.config.loss == "softmax":
            found = softmax_loss(images, texts, scale, batch.weight, chunk=chunk)
        else:
            bias, label = similarity["bias"], text_labels(batch.text, batch.text_length)
            found = sigmoid_loss(images, texts, scale, bias, batch.weight, label, chunk=chunk)
        count, one = jnp.sum(batch.weight), jnp.ones(())
        metrics = {"image_to_text": (jnp.sum(batch.weight * found.correct), count)}
        shown = similarity | {"scale": scale}
        return {"contrastive": found.sum}, metrics | {k: (x, one) for k, x in shown.items()}

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
            Cost("vision", "tower", "vision_model", cost.IMAGES, *self.vision_model.flops()),
            Cost("text", "tower", "text_model", "tokens/text", float(text.flops_per_token()), last),
            Cost("text", "tower", "text_model", "pairs/text", float(text.flops_per_pair()), 0.0),
            Cost("projections", "adaptor", "vision_projection", cost.IMAGES,
                 2.0 * vision.hidden_size * width),
            Cost("projections", "adaptor", "text_projection", cost.IMAGES,
                 2.0 * text.hidden_size * width),
            Cost("similarity", "head", "similarity", cost.PAIRS, 2.0 * width, again=1.0),
        )  # fmt: skip

    lookups: ClassVar[dict[str, str]] = {"text_model/token_embedding/embedding": "tokens/text"}
    unused = ()
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {}


def text_labels(text: Int[Array, "B S"], length: Int[Array, " B"]) -> Int[Array, "B 2"]:
    """Numbers that are equal where texts are; what stands behind their length is not looked at.

    Each of both is a sum of the ids times odd numbers, one for each place: of two different texts
    both are equal in about one of 2**60 cases. So nothing of a text is looked up elsewhere.
    """
    tokens = text.shape[1]
    odd = np.random.default_rng(0).integers(0, 2**32, (2, tokens), dtype=np.uint32) | 1
    inside = jnp.arange(tokens) < length[:, None]
    ids = jnp.where(inside, text + 1, 0).astype(jnp.uint32)
    sums = jnp.sum(ids[:, None] * odd, axis=-1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(sums, jnp.int32)


RECIPE = Recipe("contrastive", Contrastive, ContrastiveConfig, "pictures")
