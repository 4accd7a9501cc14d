"""EVA's vision towers in timm (hence in open_clip), and as their authors saved them.

Names were read in timm 1.0 (`models/eva.py`) and in baaivision/EVA: `modeling_pretrain.py` and
`modeling_finetune.py` of EVA-01 and EVA-02, `eva_vit_model.py` of EVA-CLIP.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from unijax.core.errors import UserError
from unijax.interop import clip_parts
from unijax.interop.table import (
    LEADING_ONE,
    LEADING_ONES,
    LINEAR,
    PATCHES,
    SAME,
    Entry,
    Shape,
    Source,
    Table,
    check_coverage,
    linear,
    norm,
    read_leaf,
    rotary,
)
from unijax.models.eva import EvaConfig
from unijax.nn.encoder import SWIGLU
from unijax.ops.resize import resize_bicubic, resize_positions

PATCH_WEIGHT = "patch_embed.proj.weight"
_WORDS = {  # where the two differ
    "timm": {
        "inner_attn_ln": "attn.norm", "ffn_ln": "mlp.norm", "w1": "fc1_g", "w2": "fc1_x",
        "w3": "fc2", "w12": "fc1",
    },
    "authors": {
        "inner_attn_ln": "attn.inner_attn_ln", "ffn_ln": "mlp.ffn_ln", "w1": "w1", "w2": "w2",
        "w3": "w3", "w12": "w12",
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a checkpoint holds a tower.

    Attributes:
      theirs: what all its names begin with: nothing, "visual." (EVA-CLIP) or "visual.trunk."
        (open_clip).
      dialect: "timm" or "authors".
      separate: queries, keys and values are three matrices, and the two of SwiGLU two; otherwise
        both are packed into one.
    """

    theirs: str
    dialect: str
    separate: bool


def released(config: EvaConfig, dialect: str = "timm", theirs: str = "") -> Layout:
    """As towers of this kind are released: with a norm in the MLP nothing is packed."""
    return Layout(theirs, dialect, config.mlp_norm)


def layout_of(names: Iterable[str], where: str) -> Layout:
    """What the names of a checkpoint tell.

    Raises:
      UserError: if no tower of this family is among them.
    """
    names = set(names)
    starts = sorted(n.removesuffix(PATCH_WEIGHT) for n in names if n.endswith(PATCH_WEIGHT))
    if len(starts) != 1 or f"{starts[0]}blocks.0.attn.proj.weight" not in names:
        raise UserError(
            where,
            f"{len(starts)} tensors called *{PATCH_WEIGHT}",
            "the weights of one EVA tower, in the names of timm, open_clip or its authors",
            "Give another checkpoint.",
        )
    block = f"{starts[0]}blocks.0."
    separate = f"{block}attn.q_proj.weight" in names
    # Where all is separate timm has biases beside the matrices; packed, SwiGLU tells.
    own = ["attn.q_bias"] if separate else ["attn.inner_attn_ln.weight", "mlp.w12.weight"]
    authors = any(block + name in names for name in own)
    return Layout(starts[0], "authors" if authors else "timm", separate)


def eva_entries(
    config: EvaConfig, layout: Layout, head: tuple[str, str] | None = None
) -> list[Entry]:
    """Of a tower.

    Args:
      head: our path and their name of the matrix behind the last norm, if it is wanted: "head" of
        EVA-CLIP, "lm_head" of masked image modelling.
    """
    start, words = layout.theirs, _WORDS[layout.dialect]
    layer, block = "vision_model/encoder/layers", f"{start}blocks.{{i}}"
    embeddings = "vision_model/embeddings"
    entries = [
        Entry((f"{embeddings}/class_embedding",), f"{start}cls_token", LEADING_ONES),
        Entry((f"{embeddings}/position_embedding/embedding",), f"{start}pos_embed", LEADING_ONE),
        Entry((f"{embeddings}/patch_embedding/kernel",), start + PATCH_WEIGHT, PATCHES),
        Entry((f"{embeddings}/patch_embedding/bias",), f"{start}patch_embed.proj.bias"),
    ]
    if config.mask_token:
        mask = Entry((f"{embeddings}/mask_token",), f"{start}mask_token", LEADING_ONES)
        entries.append(mask)
    entries += _attention(config, layout, layer, block)
    if config.attention_norm:
        theirs = f"{block}.{words['inner_attn_ln']}"
        entries += norm(f"{layer}/self_attn/inner_attn_ln", theirs)
    if config.mlp_norm:
        entries += norm(f"{layer}/mlp/ffn_ln", f"{block}.{words['ffn_ln']}")
    if config.hidden_act != SWIGLU:
        for name in ("fc1", "fc2"):
            entries += linear(f"{layer}/mlp/{name}", f"{block}.mlp.{name}")
    else:
        entries += linear(f"{layer}/mlp/w3", f"{block}.mlp.{words['w3']}")
        if layout.separate:
            for name in ("w1", "w2"):
                entries += linear(f"{layer}/mlp/{name}", f"{block}.mlp.{words[name]}")
        else:
            entries += _packed(
                [f"{layer}/mlp/{n}" for n in ("w1", "w2")], f"{block}.mlp.{words['w12']}"
            )
    for i in (1, 2):
        entries += norm(f"{layer}/layer_norm{i}", f"{block}.norm{i}")
        if config.layer_scale:
            entries.append(Entry((f"{layer}/gamma_{i}",), f"{block}.gamma_{i}"))
    if config.features == "post_norm":
        entries += norm("vision_model/post_layernorm", f"{start}norm")
    if head is not None:
        entries += linear(head[0], start + head[1])
    return entries


def _attention(config: EvaConfig, layout: Layout, layer: str, block: str) -> list[Entry]:
    """Keys have no bias; those of queries and values have names of their own everywhere but in
    timm's separate form."""
    kernel, bias = rotary(config.num_attention_heads) if config.rope_grid else (LINEAR, SAME)
    ours = {n: f"{layer}/self_attn/{n}_proj" for n in "qkv"}
    theirs = f"{block}.attn"
    kernels = {"q": kernel, "k": kernel, "v": LINEAR}
    entries = linear(f"{layer}/self_attn/projection_layer", f"{theirs}.proj")
    if layout.separate:
        for n in "qkv":
            entries.append(Entry((f"{ours[n]}/kernel",), f"{theirs}.{n}_proj.weight", kernels[n]))
    else:
        paths = tuple(f"{path}/kernel" for path in ours.values())
        entries.append(Entry(paths, f"{theirs}.qkv.weight", tuple(kernels.values())))
    inside = layout.separate and layout.dialect == "timm"
    for n, transform in (("q", bias), ("v", SAME)):
        name = f"{theirs}.{n}_proj.bias" if inside else f"{theirs}.{n}_bias"
        entries.append(Entry((f"{ours[n]}/bias",), name, transform))
    return entries


def _packed(ours: list[str], theirs: str) -> list[Entry]:
    return [
        Entry(tuple(f"{path}/kernel" for path in ours), f"{theirs}.weight", LINEAR),
        Entry(tuple(f"{path}/bias" for path in ours), f"{theirs}.bias"),
    ]


def eva_part(config: EvaConfig, layout: Layout, head: tuple[str, str] | None = None) -> Table:
    """The table of a tower alone: of what a checkpoint has besides, nothing is read."""
    start = re.escape(layout.theirs)
    wanted = {"mask_token": config.mask_token, "norm": config.features == "post_norm"}
    wanted |= {name: head is not None and head[1] == name for name in ("head", "lm_head")}
    dropped = [rf"{start}{name}(\.(weight|bias))?" for name, used in wanted.items() if not used]
    others = [rf"(?!{start}).*"] if layout.theirs else []
    entries = eva_entries(config, layout, head)
    return Table(tuple(entries), (*_constants(layout), *dropped, *others))


def eva_clip(config: EvaConfig, layout: Layout) -> Table:
    """A whole EVA-CLIP: in open_clip, or in its authors' release."""
    vision = eva_entries(config, layout, ("vision_projection", "head"))
    text = clip_parts.openai_text()
    dropped = (*_constants(layout), *clip_parts.DROPPED)
    return Table((*vision, *text, clip_parts.SCALE), dropped)


def _constants(layout: Layout) -> list[str]:
    """Cosines and sines, which every block of the authors' has too."""
    return [rf"{re.escape(layout.theirs)}(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"]


def read_eva(
    source: Source, config: EvaConfig, shapes: dict[str, Shape], head: tuple[str, str] | None = None
) -> dict[str, np.ndarray]:
    """A tower from a checkpoint in any layout, brought to the grid and patches of `config`.

    As its authors do it, the table of positions and the kernel of patches are resized bicubically
    (EVA02-CLIP-L/14 at 336 starts from the one at 224, EVA02-CLIP-B/16 from EVA-02-B/14).

    Args:
      shapes: of every parameter of the group `vision_model`, and of `head`'s if it is wanted.
      head: as in `eva_entries`.

    Raises:
      UserError: listing what is missing, unexpected or of another shape.
    """
    layout = layout_of(source.tensors, source.where)
    table = eva_part(config, layout, head=head)
    positions = "vision_model/embeddings/position_embedding/embedding"
    kernel = "vision_model/embeddings/patch_embedding/kernel"
    width, rows = config.hidden_size, config.num_tokens + 1
    patch = source.tensors[layout.theirs + PATCH_WEIGHT].shape[-1]
    if (table_of := source.tensors.get(f"{layout.theirs}pos_embed")) is not None:
        rows = table_of.shape[1]
    if math.isqrt(rows - 1) ** 2 != rows - 1:
        raise UserError(
            source.where,
            f"{rows} positions",
            "one for the class token, and those of a square of patches",
            "Give the checkpoint of a tower for square pictures.",
        )
    stored = shapes | {positions: (rows, width), kernel: (3 * patch**2, width)}
    fix = "Give a checkpoint of the tower that the config names."
    check_coverage(table, stored, source, fix)
    out = {path: read_leaf(table, source, path, shape) for path, shape in stored.items()}
    if rows != config.num_tokens + 1:
        out[positions] = _like(out[positions], resize_positions(out[positions], config.grid))
    if patch != config.patch_size:
        square = out[kernel].reshape(patch, patch, -1)
        square = resize_bicubic(square, config.patch_size, config.patch_size)
        out[kernel] = _like(out[kernel], square.reshape(-1, width))
    return out


def _like(stored: np.ndarray, resized) -> np.ndarray:
    return np.asarray(resized).astype(stored.dtype)
