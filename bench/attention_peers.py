"""Attention of others, over the same rows, where they can say the mask.

Each takes a case with its intervals and gives `(q, k, v) -> out` over arrays `[B, T, H, D]` of its
own library, or None. Documents that are causal, or see themselves whole, are segments to those who
know segments; whole images inside a causal document are not.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from unijax.ops.attention.cases import Case


def dense_mask(case: Case, start, end) -> np.ndarray:
    key = np.arange(case.keys)
    return (key >= start[..., None]) & (key < end[..., None])


def segments(start) -> np.ndarray:
    """Documents counted along every row, padding as one more."""
    return np.cumsum(np.diff(start, axis=1, prepend=start[:, :1]) != 0, axis=1).astype(np.int32)


def is_causal(case: Case) -> bool:
    return case.mean is not None and not case.whole and not case.cached


def is_one_document(case: Case) -> bool:
    return case.mean is None or case.mean >= case.tokens


def xla(case, start, end) -> Callable:
    mask = jnp.asarray(dense_mask(case, start, end))[:, None]
    return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def cudnn(case, start, end) -> Callable | None:
    if jax.default_backend() != "gpu":
        return None
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if is_one_document(case) and not case.cached:
        return functools.partial(attend, is_causal=case.mean is not None)
    return functools.partial(attend, mask=jnp.asarray(dense_mask(case, start, end))[:, None])


def jax_triton(case, start, end) -> Callable | None:
    if jax.default_backend() != "gpu" or not is_causal(case) or case.heads != case.kv_heads:
        return None
    from jax.experimental.pallas.ops.gpu.attention import mha

    ids = None if is_one_document(case) else jnp.asarray(segments(start))
    scale = case.head_dim**-0.5
    return lambda q, k, v: mha(q, k, v, ids, sm_scale=scale, causal=True)


def splash(case, start, end) -> Callable | None:
    """Segments are applied inside the blocks that the causal mask leaves."""
    if jax.default_backend() != "tpu" or not is_causal(case):
        return None
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    grouped = case.heads != case.kv_heads
    heads = case.heads // case.kv_heads if grouped else case.heads
    mask = masks.MultiHeadMask([masks.CausalMask((case.tokens, case.keys))] * heads)
    make = kernels.make_splash_mqa if grouped else kernels.make_splash_mha
    kernel = make(mask=mask, head_shards=1, q_seq_shards=1)
    ids = jnp.asarray(segments(start))

    def attend(q, k, v):
        q, k, v = (x.swapaxes(1, 2) for x in (q * case.head_dim**-0.5, k, v))
        if grouped:
            b, _, t, d = q.shape
            q = q.reshape(b, case.kv_heads, -1, t, d)
            one = jax.vmap(kernel, in_axes=(0, 0, 0, None))
        else:
            one = kernel
        out = jax.vmap(lambda q, k, v, i: one(q, k, v, kernels.SegmentIds(i, i)))(q, k, v, ids)
        return out.reshape(len(out), case.heads, case.tokens, -1).swapaxes(1, 2)

    return attend


def torch_flex(case, start, end) -> Callable:
    """FlexAttention with a BlockMask of the intervals, made before the clock starts."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device = "cuda" if torch.cuda.is_available() else "cpu"
    start, end = (torch.tensor(x, device=device) for x in (start, end))

    def visible(b, h, q, k):
        return (k >= start[b, q]) & (k < end[b, q])

    blocks = create_block_mask(visible, case.rows, None, case.tokens, case.keys, device=device)
    flex = torch.compile(flex_attention) if device == "cuda" else flex_attention

    def attend(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        grouped = case.heads != case.kv_heads
        return flex(q, k, v, block_mask=blocks, enable_gqa=grouped).transpose(1, 2)

    return attend


def torch_flash(case, start, end) -> Callable | None:
    """Scaled dot product attention; its flash kernel has causal and full masks alone."""
    if not is_one_document(case) or case.cached:
        return None
    from torch.nn.functional import scaled_dot_product_attention

    def attend(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(
            q, k, v, is_causal=case.mean is not None, enable_gqa=case.heads != case.kv_heads
        )
        return out.transpose(1, 2)

    return attend


OF_JAX = {"XLA": xla, "cuDNN": cudnn, "jax Pallas Triton": jax_triton, "jax splash": splash}
OF_TORCH = {"torch FlexAttention": torch_flex, "torch SDPA": torch_flash}
