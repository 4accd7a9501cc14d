"""What recipes share whose images are codes of a VQ tokenizer, its parameters under `vqmodel`."""

from typing import ClassVar

from jax import Array
from jaxtyping import Float, Int

from unijax.core.mesh import ROWS, WHOLE, lay
from unijax.core.system import Params
from unijax.models.vqgan import VQGAN


class ImageCodes:
    """Of a recipe with `config.vq`, `dtype`, `param_dtype`."""

    # Codes are made in a step, not pictures.
    unused: ClassVar[tuple[str, ...]] = ("vqmodel/decoder", "vqmodel/post_quant_conv")

    @property
    def vqmodel(self) -> VQGAN:
        return VQGAN(self.config.vq, dtype=self.dtype, param_dtype=self.param_dtype)

    def encode_codes(
        self, params: Params, pixels: Float[Array, "B height width 3"]
    ) -> Int[Array, "B N"]:
        """Codes of images in raster order, from pixels in [-1, 1]."""
        codes = self.vqmodel.apply({"params": params["vqmodel"]}, pixels, method="encode")
        return lay(codes, ROWS, WHOLE)  # the encoder spreads its images over all axes

    def decode_codes(
        self, params: Params, codes: Int[Array, "B N"]
    ) -> Float[Array, "B height width 3"]:
        """Pixels in [-1, 1] (not clipped) of image codes."""
        return self.vqmodel.apply({"params": params["vqmodel"]}, codes, method="decode")
