"""The product with weights, whose gradient is summed in the precision of the weights."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


@jax.custom_vjp
def linear(x: Float[Array, "*batch d_in"], kernel: Float[Array, "d_in d_out"]) -> Array:
    """`x @ kernel`, in the dtype of `x`.

    Differentiated as it stands, with float32 weights cast to bfloat16, a weight's gradient would be
    bfloat16 on every device, and the sum over devices rounded at every addition. Here the products
    of bfloat16 are added up in the dtype of `kernel`, on a device and over devices.
    """
    return jnp.dot(x, kernel.astype(x.dtype))


def _forward(x, kernel):
    # What is not differentiated with respect to costs no product: frozen weights, and first layers.
    kept = {"kernel": kernel.value}
    if kernel.perturbed:
        kept["x"] = x.value
    if x.perturbed:
        kept["of_x"] = ()
    return jnp.dot(x.value, kernel.value.astype(x.value.dtype)), kept


def _backward(kept, dy):
    kernel, dx, dkernel = kept["kernel"], None, None
    if "of_x" in kept:
        last = dy.ndim - 1
        dx = jax.lax.dot_general(dy, kernel.astype(dy.dtype), (((last,), (1,)), ((), ())))
    if "x" in kept:
        x, rows = kept["x"], tuple(range(dy.ndim - 1))
        dkernel = jax.lax.dot_general(
            x, dy, ((rows, rows), ((), ())), preferred_element_type=kernel.dtype
        )
    return dx, dkernel


linear.defvjp(_forward, _backward, symbolic_zeros=True)
