"""What recipes share whose pictures are a few features of a frozen tower, each of length one."""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from unijax.core.errors import UserError
from unijax.core.system import Encoded, Params
from unijax.models.towers import Tower
from unijax.nn.projector import Condition
from unijax.ops.quantize import unit_norm
from unijax.ops.resize import pool_bilinear
from unijax.systems.painter import Painter, PainterConfig, Paints


@dataclasses.dataclass(frozen=True)
class VisualiserConfig:
    """A painter, and how features become what it reads.

    Attributes:
      painter: the diffusion model.
      hidden: width within the projector of the features.
      tokens: what the painter reads; those beyond the features are zeros.
    """

    painter: PainterConfig
    hidden: int = 2048
    tokens: int = 77


class PooledFeatures(Paints):
    """Of a recipe with `config.vision`, `config.grid`, and `config.visualiser`, which may be None.

    Parameter groups: `vision_model`; with a visualiser `condition`, `unet` and `autoencoder`.
    """

    @property
    def vision_model(self) -> Tower:
        return Tower(self.config.vision, self.remat, **self._kinds)

    @property
    def features(self) -> Encoded:
        """What a cache may hold of a picture."""
        shape = (self.config.grid**2, self.config.vision.hidden_size)
        return Encoded("vision_model", "features", shape, "float32", "encode_features")

    def encode_features(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N F"]:
        """Of pictures in -1..1, float32: patches pooled to a coarser grid, each of length one.

        Pictures of another size than the tower's are resized first.
        """
        pixels = self.vision_model.resized(pixels)
        patches = self.vision_model.patches(params["vision_model"], pixels)
        return unit_norm(pool_bilinear(patches, self.config.grid))

    @property
    def painter(self) -> Painter:
        return Painter(self.config.visualiser.painter, self.remat, **self._kinds)

    @property
    def condition(self) -> Condition:
        v = self.config.visualiser
        width = v.painter.unet.cross_attention_dim
        return Condition(v.hidden, width, v.tokens, **self._kinds)

    @property
    def visualiser_inits(self) -> dict:
        """By group: from a key to fresh `{"params": ...}`, boxed with logical names."""
        if self.config.visualiser is None:
            return {}
        feature = jnp.zeros((1, 1, self.config.vision.hidden_size), self.dtype)
        return {"condition": lambda k: self.condition.init(k, feature)} | self.painter.inits

    def condition_flops(self) -> float:
        """Of a picture's features on their way to the painter."""
        v, n = self.config.visualiser, self.config.grid**2
        both = self.config.vision.hidden_size + v.painter.unet.cross_attention_dim
        return 2.0 * n * both * v.hidden

    # What a maker names

    def conditioned(self, params: Params, vectors: Float[Array, "B N F"]) -> Float[Array, "B M K"]:
        """Features as the painter reads them."""
        p = {"params": params["condition"]}
        return self.condition.apply(p, vectors.astype(self.dtype))


def check_visualiser(config) -> None:
    """Raises UserError for a grid finer than the tower's, or more features than are read."""
    side = config.vision.image_size // config.vision.patch_size
    if not 1 <= config.grid <= side:
        raise UserError(
            "model.grid", f"{config.grid}", f"1 to {side}, the patches of a side of model.vision",
            "Change it.",
        )  # fmt: skip
    v = config.visualiser
    if v is not None and v.tokens < config.grid**2:
        raise UserError(
            "model.visualiser.tokens", f"{v.tokens}",
            f"at least {config.grid**2}, the features of a picture", "Raise it.",
        )  # fmt: skip
