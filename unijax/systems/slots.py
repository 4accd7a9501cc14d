"""What the image slots of a batch hold, encoded in the step or ahead of it."""

from jax import Array

from unijax.core.batch import PackedBatch
from unijax.core.mesh import POSITIONS, ROWS, WHOLE, lay
from unijax.core.system import Params, RowSystem
from unijax.ops.image import to_signed


def values_of(system: RowSystem, params: Params, batch: PackedBatch, name: str) -> Array:
    """Features, codes or latents `[B, I, ...]` of the slots `name`, as `system.encoded` says."""
    slots, how = batch.images[name], system.encoded[name]
    found = getattr(slots, how.field)
    if found is not None:
        return found
    b, i, h, w, _ = slots.pixels.shape
    pixels = to_signed(slots.pixels.reshape(b * i, h, w, 3), system.dtype)
    values = getattr(system, how.method)(params, pixels)
    # Tokens are split like the positions of a row; the sides of latents are not.
    tokens = WHOLE if how.field == "latents" else POSITIONS
    rest = (WHOLE,) * (values.ndim - 2)
    return lay(values.reshape(b, i, *values.shape[1:]), ROWS, WHOLE, tokens, *rest)
