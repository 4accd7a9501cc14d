"""Pictures, or their latents, as rows of square patches, and back."""

from jax import Array
from jaxtyping import Float


def patchify(picture: Float[Array, "B height width C"], size: int) -> Float[Array, "B N patch"]:
    """Squares of `size` in raster order, each flattened as (row, column, channel)."""
    b, height, width, c = picture.shape
    rows, columns = height // size, width // size
    x = picture.reshape(b, rows, size, columns, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * columns, size * size * c)


def unpatchify(
    patches: Float[Array, "B N patch"], size: int, height: int
) -> Float[Array, "B height width C"]:
    """The inverse of `patchify`, for a picture of that height."""
    b, n, length = patches.shape
    rows, c = height // size, length // size**2
    columns = n // rows
    x = patches.reshape(b, rows, columns, size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, height, columns * size, c)
