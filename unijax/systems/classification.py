"""A vision tower that says which class a picture is of: fine-tuned, or with a linear probe alone.

One linear layer on the feature of a picture, cross-entropy, no other parts. With a rate that decays
from layer to layer it is the fine-tuning of BEiT and EVA (arXiv 2106.08254, arXiv 2211.07636), but
for the last norm, which they have behind the mean of the patches and towers here before it; with
the tower frozen, a linear probe.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, UInt32

from unijax.core import axes, cost
from unijax.core.batch import ImageBatch
from unijax.core.cost import Cost
from unijax.core.errors import UserError
from unijax.core.keys import named
from unijax.core.system import Encoded, Loss, Metrics, Params, Recipe, Sums
from unijax.models.towers import Tower, TowerConfig, check_pooling
from unijax.nn.layers import Dense
from unijax.ops.image import to_signed


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """The tower and its head.

    Attributes:
      classes: how many; `data.classes` names them.
      pooling: of a picture's tokens: "mean" of the patches, or "class", the class token.
      label_smoothing: share of the answer that is spread evenly over the classes in training.

    Raises:
      UserError: for fewer than two classes, an unknown pooling, or a share that is none.
    """

    vision: TowerConfig
    classes: int
    pooling: str = "mean"
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.classes < 2:
            raise UserError("model.classes", f"{self.classes}", "2 or more", "Correct the config.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                "model.label_smoothing", f"{self.label_smoothing}", "a share from 0 to below 1",
                "Correct the config.",
            )  # fmt: skip
        check_pooling("model.pooling", self.pooling, self.vision)


@dataclasses.dataclass(frozen=True)
class Classification:
    """The recipe. Eats `ImageBatch` with labels.

    Attributes:
      config: sizes.
      dtype: of compute.
      param_dtype: of stored, trained parameters.
      remat: of the tower's layers: "none", "dots" or "full".
    """

    config: ClassificationConfig
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"

    encoders = frozenset({"vision_model"})
    rows_alone = True
    unused = ()
    lookups: ClassVar[dict[str, str]] = {}
    own_axes: ClassVar[dict[str, str]] = {}
    losses: ClassVar[dict[str, Loss]] = {"class": Loss("nats a picture", "", "classes")}

    @property
    def classes(self) -> int:
        """How many the labels are of."""
        return self.config.classes

    @property
    def encoded(self) -> dict[str, Encoded]:
        """What a cache may hold where pictures are always seen alike: a probe reads it alone."""
        shape = (self.config.vision.hidden_size,)
        return {"vision": Encoded("vision_model", "features", shape, "float32", "encode")}

    @property
    def head_dims(self) -> dict[str, int]:
        """Width of a head of attention, by group (`train.mup`)."""
        vision = self.config.vision
        return {"vision_model": vision.hidden_size // vision.num_attention_heads}

    @property
    def _kinds(self) -> dict:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def head(self) -> Dense:
        return Dense(self.config.classes, (axes.VISION_EMBED, axes.NORM), **self._kinds)

    def init(self, key: Array) -> Params:
        """Fresh parameters, boxed with logical names."""
        feature = jnp.zeros((1, self.config.vision.hidden_size), self.dtype)
        return {
            "vision_model": self.vision_model.init(named(key, "vision_model"))["params"],
            "head": self.head.init(named(key, "head"), feature)["params"],
        }

    def encode(
        self,
        params: Params,
        pixels: Float[Array, "B height width 3"],
        seed: UInt32[Array, " B"] | None = None,
    ) -> Float[Array, "B D"]:
        """The feature of every picture in -1..1; `seed` of what is dropped of each in training."""
        return self.vision_model.pooled(params["vision_model"], pixels, self.config.pooling, seed)

    def logits(self, params: Params, features: Float[Array, "B D"]) -> Float[Array, "B classes"]:
        """Of every class."""
        found = self.head.apply({"params": params["head"]}, features.astype(self.dtype))
        return found.astype(jnp.float32)

    # What the loop knows

    def weights(self, batch: ImageBatch) -> Sums:
        """A mean over the pictures."""
        return {"class": jnp.sum(batch.weight)}

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
        """Summed cross-entropy of the pictures that count, and how many are named right.

        Raises:
          UserError: if the batch has no labels.
        """
        del step, frozen
        if batch.label is None:
            raise UserError(
                "data.classes", "none", "the names of the classes", "Name them in the config."
            )
        features = batch.features
        if features is None:
            seed = None if key is None else batch.seed
            features = self.encode(params, to_signed(batch.pixels, self.dtype), seed)
        scores = jax.nn.log_softmax(self.logits(params, features))
        right = jnp.take_along_axis(scores, batch.label[:, None], axis=1)[:, 0]
        smooth = 0.0 if key is None else self.config.label_smoothing
        each = -(1 - smooth) * right - smooth * jnp.mean(scores, axis=1)
        total, count = jnp.sum(batch.weight * each), jnp.sum(batch.weight)
        found = (jnp.argmax(scores, axis=1) == batch.label).astype(jnp.float32)
        return {"class": total}, {
            "class/loss": (total, count),
            "class/accuracy": (jnp.sum(batch.weight * found), count),
        }

    def amounts(self, batch: ImageBatch, as_causal: bool = False) -> dict[str, Array]:
        del as_causal  # no packed rows
        found = {cost.IMAGES: jnp.sum(batch.weight)}
        if batch.features is not None:
            return found
        return found | {cost.encoded_of("vision"): found[cost.IMAGES]}

    @property
    def costs(self) -> tuple[Cost, ...]:
        width, classes = self.config.vision.hidden_size, self.config.classes
        return (
            Cost(self.vision_model.name, "tower", "vision_model", cost.encoded_of("vision"),
                 *self.vision_model.flops()),
            Cost("head", "head", "head", cost.IMAGES, 2.0 * width * classes),
        )  # fmt: skip


RECIPE = Recipe("classification", Classification, ClassificationConfig, "pictures")
