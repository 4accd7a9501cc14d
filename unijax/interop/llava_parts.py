"""Tables of what multimodal language models see with: Qwen2.5-VL's tower, LLaVA's projector.

Names were read in transformers 5 (`modeling_qwen2_5_vl.py`, `modeling_llava_onevision.py`).
"""

import numpy as np

from unijax.interop.parts import Entries
from unijax.interop.table import LINEAR, Entry, Transform, linear
from unijax.models.qwen_vision import FRAMES, QwenVisionConfig


def _patch_to_theirs(kernel: np.ndarray) -> np.ndarray:
    side = round((kernel.shape[0] // (3 * FRAMES)) ** 0.5)
    return kernel.reshape(FRAMES, side, side, 3, -1).transpose(4, 3, 0, 1, 2)


# [D, 3, frames, p, p] <-> [frames * p * p * 3, D]
FRAME_PATCHES = Transform(
    lambda x: x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0]), _patch_to_theirs
)


def qwen_vision(config: QwenVisionConfig, ours: str, theirs: str) -> Entries:
    """`theirs` ends with a dot or is empty."""
    del config
    block, other = f"{ours}/blocks", f"{theirs}blocks.{{i}}"
    patch = Entry(
        (f"{ours}/patch_embed/kernel",), f"{theirs}patch_embed.proj.weight", FRAME_PATCHES
    )
    qkv = [f"{block}/attn/{name}" for name in "qkv"]
    entries = [
        patch,
        Entry(tuple(f"{p}/kernel" for p in qkv), f"{other}.attn.qkv.weight", LINEAR),
        Entry(tuple(f"{p}/bias" for p in qkv), f"{other}.attn.qkv.bias"),
        *linear(f"{block}/attn/proj", f"{other}.attn.proj"),
    ]
    for name in ("norm1", "norm2"):
        entries.append(Entry((f"{block}/{name}/scale",), f"{other}.{name}.weight"))
    for name in ("gate_proj", "up_proj", "down_proj"):
        entries += linear(f"{block}/mlp/{name}", f"{other}.mlp.{name}")
    merger = f"{ours}/merger", f"{theirs}merger"
    entries.append(Entry((f"{merger[0]}/ln_q/scale",), f"{merger[1]}.ln_q.weight"))
    for name in ("mlp_0", "mlp_2"):
        entries += linear(f"{merger[0]}/{name}", f"{merger[1]}.{name.replace('_', '.')}")
    return entries


def projector(newline: bool, theirs: str) -> Entries:
    """LLaVA's, and the vector at the end of a row if there is one; `theirs` ends with a dot or is
    empty."""
    ours, other = "aligner/projector", f"{theirs}multi_modal_projector"
    entries = [
        *linear(f"{ours}/fc1", f"{other}.linear_1"),
        *linear(f"{ours}/hidden_layers_0", f"{other}.linear_2"),
    ]
    end = Entry(("aligner/image_newline",), f"{theirs}image_newline")
    return [*entries, end] if newline else entries
