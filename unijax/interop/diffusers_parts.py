"""Networks of latent diffusion in diffusers' directories: config.json, and safetensors beside it.

Names were read in diffusers 0.42. A table is made from our own paths, so that none can be left out:
both sides are called nearly alike.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unijax.core import tree
from unijax.core.files import atomic_directory
from unijax.core.json_files import write_object
from unijax.interop.diffusers_configs import class_of, config_json, read_config
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sources import open_directory
from unijax.interop.table import (
    CONV,
    LINEAR,
    SAME,
    Entry,
    Shape,
    Source,
    Table,
    TensorInfo,
    Transform,
    check_coverage,
    foreign_tensors,
    read_leaf,
)
from unijax.models.autoencoder import AutoencoderKL
from unijax.models.dc_autoencoder import AutoencoderDC
from unijax.models.sana import Sana
from unijax.models.unet import UNet

STEM = "diffusion_pytorch_model"  # of the files of weights
MAX_SHARD_BYTES = 10 * 2**30


def _grouped_to_theirs(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1], 1, 1)


# A convolution of one pixel that only the other side holds as a matrix: [out, in] <-> [1, 1, in,
# out]; one that only we do: [out, in, 1, 1] <-> [in, out].
POINTWISE = Transform(lambda x: x.T[None, None], lambda x: x[0, 0].T)
PIXEL = Transform(lambda x: x[..., 0, 0].T, lambda x: x.T[..., None, None])
DEPTHWISE = Transform(  # [c, 1, k, k] <-> [k, k, c]
    lambda x: x[:, 0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[:, None]
)
GROUPED = Transform(  # [groups x out, in, 1, 1] <-> [groups, in, out]; as many out as in
    lambda x: x[..., 0, 0].reshape(-1, x.shape[1], x.shape[1]).transpose(0, 2, 1),
    _grouped_to_theirs,
)

# Regular expressions on our paths, with a slash before, and what they become.
RULES = {
    "AutoencoderKL": (
        (r"/(down|up)_(\d+)/", r"/\1_blocks.\2/"),
        (r"/block_(\d+)/", r"/resnets.\1/"),
        (r"/(down|up)sample/", r"/\1samplers.0/"),
        (r"/nin_shortcut/", r"/conv_shortcut/"),
        (r"/mid/resnets\.1/", r"/mid_block/resnets.0/"),
        (r"/mid/resnets\.2/", r"/mid_block/resnets.1/"),
        (r"/mid/attn_1/norm/", r"/mid_block/attentions.0/group_norm/"),
        (r"/mid/attn_1/([qkv])/", r"/mid_block/attentions.0/to_\1/"),
        (r"/mid/attn_1/proj_out/", r"/mid_block/attentions.0/to_out.0/"),
        (r"/norm_out/", r"/conv_norm_out/"),
    ),
    "UNet2DConditionModel": (
        (r"/nin_shortcut/", r"/conv_shortcut/"),
        (r"/ff/net_0_proj/", r"/ff/net.0.proj/"),
        (r"/(\w*(?:s|out|net))_(\d+)(?=/)", r"/\1.\2"),
    ),
    "SanaTransformer2DModel": (
        (r"/patch_embed/", r"/patch_embed.proj/"),
        (r"/time_embed/embedder/", r"/time_embed/emb.timestep_embedder/"),
        (r"/transformer_blocks/", r"/transformer_blocks.{i}/"),
        (r"/to_out_0/", r"/to_out.0/"),
    ),
    "AutoencoderDC": (
        (r"/(down|up)_blocks_(\d+)_(\d+)/", r"/\1_blocks.\2.\3/"),
        (r"/to_qkv_multiscale_0/", r"/to_qkv_multiscale.0/"),
        (r"/proj_out$", r"/proj_out/kernel"),
    ),
}
LEAVES = {"kernel": "weight", "scale": "weight"}


@functools.cache
def shapes(config: Any) -> dict[str, Shape]:
    """Of every parameter of a network of these sizes."""
    name, side = class_of(config), getattr(config, "image_size", None) or config.sample_size
    picture = lambda channels: jnp.zeros((1, side, side, channels))  # noqa: E731
    if name == "AutoencoderKL":
        model, given = AutoencoderKL(config), (picture(3), jnp.zeros(1, jnp.uint32))
    elif name == "AutoencoderDC":
        model, given = AutoencoderDC(config), (picture(3),)
    elif name == "SanaTransformer2DModel":
        context = jnp.zeros((1, 1, config.caption_channels))
        model, given = Sana(config), (picture(config.in_channels), jnp.zeros(1), context)
    else:
        context = jnp.zeros((1, 1, config.cross_attention_dim))
        model, given = UNet(config), (picture(config.in_channels), jnp.zeros(1), context)
    boxed = jax.eval_shape(model.init, jax.random.key(0), *given)["params"]
    return {path: x.shape for path, x in tree.flatten(nn.unbox(boxed)).items()}


def table(config: Any, names: Iterable[str] = ()) -> Table:
    """Of a network of these sizes.

    Args:
      names: of a checkpoint's tensors. The attention of autoencoders was called otherwise until
        2023, as Stable Diffusion's still is.
    """
    old = any(name.endswith(".attentions.0.query.weight") for name in names)
    found = entries(class_of(config), shapes(config))
    if old:
        found = [dataclasses.replace(e, theirs=_former(e.theirs)) for e in found]
    return Table(tuple(found))


def entries(
    name: str, shapes: Mapping[str, Shape], ours: str = "", theirs: str = ""
) -> list[Entry]:
    """Of a network that is part of another.

    Args:
      name: of its class.
      shapes: of its parameters, by path within it.
      ours, theirs: what paths and names begin with; each ends with its separator or is empty.
    """
    found = []
    for path, shape in shapes.items():
        words = f"/{path}"
        for pattern, replacement in RULES[name]:
            words = re.sub(pattern, replacement, words)
        parts = words.strip("/").split("/")
        tensor = ".".join([*parts[:-1], LEAVES.get(parts[-1], parts[-1])])
        transform = _transform(tensor, len(shape) - ("{i}" in tensor))
        found.append(Entry((ours + path,), theirs + tensor, transform))
    return found


def _transform(name: str, dims: int) -> Transform:
    """By their name of a tensor, and the dims of ours without that of layers."""
    if dims == 4:
        return POINTWISE if ".to_" in name else CONV
    if dims == 3:
        return GROUPED if name.endswith("proj_out.weight") else DEPTHWISE
    if dims == 2 and not name.endswith("scale_shift_table"):
        return PIXEL if re.search(r"conv_(inverted|point)\.|patch_embed\.", name) else LINEAR
    return SAME


def _former(name: str) -> str:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def opened(directory: str | pathlib.Path) -> tuple[Any, Table, Source]:
    """Sizes, table and tensors of a network's directory, held to each other.

    Raises:
      UserError: what is missing, unexpected or of another shape, or not what this project has.
    """
    directory = pathlib.Path(directory)
    config = read_config(directory)
    source = open_directory(directory, STEM)
    names = table(config, source.tensors)
    fix = "Give a directory whose config.json is that of its weights."
    check_coverage(names, shapes(config), source, fix)
    return config, names, source


def read(directory: str | pathlib.Path) -> tuple[Any, dict]:
    """Sizes and nested parameters of a network's directory, in the dtypes that are stored.

    Raises:
      UserError: as `opened`.
    """
    config, names, source = opened(directory)
    leaves = {p: read_leaf(names, source, p, s) for p, s in shapes(config).items()}
    return config, tree.unflatten(leaves)


def write(directory: str | pathlib.Path, config: Any, params: dict) -> None:
    """A directory that diffusers' `from_pretrained` loads.

    Args:
      directory: new or empty; it appears when it is whole.
      params: nested, of arrays.

    Raises:
      UserError: sizes that diffusers' class cannot say, or a place that cannot be written.
    """
    content, names = config_json(config), table(config)
    flat = tree.flatten(params)
    assert {p: x.shape for p, x in flat.items()} == shapes(config), class_of(config)
    tensors = dict(_foreign(names, flat))
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with atomic_directory(directory) as temporary:
        write_object(temporary / "config.json", content)
        writer = SafetensorsWriter(temporary, infos, MAX_SHARD_BYTES, STEM)
        for name, x in tensors.items():
            writer.write(name, x)
        writer.close()


def _foreign(names: Table, flat: Mapping[str, Any]) -> Iterable[tuple[str, np.ndarray]]:
    for entry in names.entries:
        yield from foreign_tensors(entry, [np.asarray(flat[path]) for path in entry.ours])
