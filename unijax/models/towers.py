"""The vision towers that a recipe may have: which there are is said by the config alone.

A config says `kind`: "siglip" (which may be left out), "eva" (EVA-01, EVA-02, EVA-CLIP) or "clip";
of a multimodal language model "qwen2_5_vl" too; "codes" are those of a VQ tokenizer, or what they
mean (`models.semantic`). Each tower sees pictures as its releases do: SigLIP and VQ from -1 to 1,
the others with the mean and deviation of CLIP's data. EVA and CLIP have a class token before the
patches.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, UInt32

from unijax.core.errors import UserError
from unijax.core.system import Params
from unijax.models.clip import ClipVision, ClipVisionConfig
from unijax.models.eva import Eva, EvaConfig
from unijax.models.qwen_vision import QwenVision, QwenVisionConfig
from unijax.models.semantic import CodesConfig, CodesTower
from unijax.models.siglip import Siglip, SiglipConfig
from unijax.ops.image import by_clip_statistics

POOLING = ("mean", "class")
TowerConfig = SiglipConfig | EvaConfig | ClipVisionConfig | CodesConfig
ReaderConfig = TowerConfig | QwenVisionConfig
CONFIGS = {c.kind: c for c in (SiglipConfig, EvaConfig, ClipVisionConfig, CodesConfig)}
# Of kinds, for people.
NAMES = {
    "siglip": "SigLIP", "eva": "EVA", "clip": "CLIP", "codes": "VQ",
    "qwen2_5_vl": "Qwen2.5-VL's tower",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tower:
    """A vision tower of any kind, without its parameters.

    Attributes:
      config: sizes, and the kind.
      remat: of the layers: "none", "dots" or "full" (`nn.stack`).
    """

    config: ReaderConfig
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def module(self) -> Siglip | Eva | ClipVision | CodesTower | QwenVision:
        of = {
            SiglipConfig: Siglip, EvaConfig: Eva, ClipVisionConfig: ClipVision,
            CodesConfig: CodesTower, QwenVisionConfig: QwenVision,
        }  # fmt: skip
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return of[type(self.config)](self.config, remat=self.remat, **kinds)

    @property
    def name(self) -> str:
        """What people call it."""
        return NAMES[self.config.kind]

    @property
    def class_tokens(self) -> int:
        """Tokens before those of the patches."""
        return int(isinstance(self.config, EvaConfig | ClipVisionConfig))

    def init(self, key: Array) -> Params:
        """Fresh `{"params": ...}`, boxed with logical names."""
        size = self.config.image_size
        return self.module.init(key, jnp.zeros((1, size, size, 3), self.dtype))

    def resized(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B size size 3"]:
        """Pictures of any size as it takes them, cubic."""
        size = self.config.image_size
        if pixels.shape[1] == size:
            return pixels
        shape = (len(pixels), size, size, 3)
        return jax.image.resize(pixels, shape, "cubic").astype(pixels.dtype)

    def __call__(
        self,
        params: Params,
        pixels: Float[Array, "B height width 3"],
        seed: UInt32[Array, " B"] | None = None,
        masked: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B tokens D"]:
        """Every token that the tower gives, the class token first.

        Args:
          params: of the tower alone.
          pixels: in -1..1.
          seed: of each picture, of what EVA drops of it; None drops nothing.
          masked: True for a patch that EVA's mask token stands in for.

        Raises:
          UserError: for pictures of another size than the tower's.
        """
        size = self.config.image_size
        if pixels.shape[1:3] != (size, size):
            raise UserError(
                "pictures",
                f"{pixels.shape[2]} x {pixels.shape[1]} pixels",
                f"{size} x {size}, the image_size of the {self.name} tower",
                "Change data.size, or the tower's image_size.",
            )
        if not isinstance(self.config, SiglipConfig | CodesConfig):
            pixels = by_clip_statistics(pixels)
        dropped = {"seed": seed, "masked": masked} if isinstance(self.config, EvaConfig) else {}
        return self.module.apply({"params": params}, pixels, **dropped)

    def pooled(
        self,
        params: Params,
        pixels: Float[Array, "B height width 3"],
        pooling: str,
        seed: UInt32[Array, " B"] | None = None,
    ) -> Float[Array, "B D"]:
        """One feature of a picture: the class token, or the mean of its patches."""
        x = self(params, pixels, seed)
        return x[:, 0] if pooling == "class" else jnp.mean(x[:, self.class_tokens :], axis=1)

    def flops(self) -> tuple[float, float]:
        """Of a picture in training, forward, and the share that recomputation need not do again."""
        training = {"training": True} if isinstance(self.config, EvaConfig) else {}
        whole, last = self.config.flops_per_image, self.config.last_flops_per_image
        return float(whole(**training)), float(last(**training))

    def of_codes(self, params: Params, codes: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Features of a VQ tokenizer's codes, of a tower of that kind."""
        return self.module.apply({"params": params}, codes, method="read")

    def patches(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Float[Array, "B N D"]:
        """One feature for every patch in raster order, from pixels in -1..1."""
        return self(params, pixels)[:, self.class_tokens :]


def check_pooling(where: str, pooling: str, config: TowerConfig) -> None:
    """Raises a UserError for a way that the tower's tokens cannot be pooled in."""
    allowed = POOLING[: 2 if isinstance(config, EvaConfig | ClipVisionConfig) else 1]
    if pooling not in allowed:
        found = f"{pooling!r} of a {NAMES[config.kind]} tower"
        raise UserError(where, found, f"one of {[*allowed]}", "Correct the config.")


def check_whole(where: str, config: ReaderConfig) -> None:
    """Raises a UserError for a tower that would leave something out of what a decoder reads."""
    for name in ("drop_path", "patch_dropout", "mask_token"):
        if getattr(config, name, 0):
            raise UserError(
                f"{where}.{name}",
                f"{getattr(config, name)}",
                "none: a decoder reads all of a picture",
                f"Remove {name} here; a run of the tower may have had it.",
            )
