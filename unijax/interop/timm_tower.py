"""EVA's towers as directories that timm opens: `timm.create_model("local-dir:FOLDER")`.

config.json names an architecture, and `model_args` what differs from it; releases without them are
of the architecture's own sizes. Names of both were read in timm 1.0 (`models/_hub.py`, `eva.py`).
"""

import dataclasses
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object, write_object
from unijax.interop.eva_parts import eva_part, layout_of, released
from unijax.interop.given import Opened
from unijax.interop.interface import Export, Format
from unijax.interop.opening import check_same, existing_directory
from unijax.interop.rows import ROWS
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sections import LAYERS, SIDE, WIDTH, Section
from unijax.interop.sources import open_directory
from unijax.interop.table import Table
from unijax.models.eva import SIZES, EvaConfig
from unijax.models.towers import TowerConfig
from unijax.nn.encoder import SWIGLU
from unijax.ops.image import CLIP_MEAN, CLIP_STD, by_clip_statistics

Head = tuple[str, str] | None
# Fields of which a directory says nothing: how a tower is trained, and where it is read.
UNSAID = ("mask_token", "drop_path", "patch_dropout", "patch_gradient", "features", "init")
EVA = "a directory of a timm EVA tower, with config.json and model.safetensors"
_ARCHITECTURE = "eva_giant_patch14_224"  # of exports: the plain one, `model_args` say the rest
_EPSILON = 1e-6  # of all of timm's
_USE = """\
```python
import timm

tower = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
tokens = tower.forward_features(pixels)  # class token, patches; pixels by `pretrained_cfg`
```"""


def arguments(config: EvaConfig) -> dict[str, Any]:
    """What timm's `Eva` is made with, but for pooling and head."""
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        # timm cuts the product down to a whole number.
        "mlp_ratio": (config.intermediate_size + 0.5) / config.hidden_size,
        "qkv_fused": not config.mlp_norm,
        "swiglu_mlp": config.hidden_act == SWIGLU,
        "scale_mlp": config.mlp_norm,
        "scale_attn_inner": config.attention_norm,
        "use_rot_pos_emb": config.rope_grid > 0,
        "ref_feat_shape": [config.rope_grid] * 2 if config.rope_grid else None,
        "use_post_norm": config.post_norm,
        "init_values": config.layer_scale or None,
    }


def read_config(directory: pathlib.Path, notes: list[str]) -> EvaConfig:
    """Sizes of a directory.

    Raises:
      UserError: for another architecture, or arguments that no tower here has.
    """
    path = directory / "config.json"
    content = read_object(path)
    name = content.get("architecture")
    if not isinstance(name, str) or name not in SIZES:
        raise UserError(
            str(path), f"architecture {quoted(name)}", f"one of {sorted(SIZES)}",
            "Give an EVA tower.",
        )  # fmt: skip
    c = Section(f"{path}.model_args", content.get("model_args"), arguments(SIZES[name]))
    sizes = {
        "image_size": c.whole("img_size", SIDE),
        "patch_size": c.whole("patch_size", SIDE),
        "hidden_size": c.whole("embed_dim", WIDTH),
        "num_hidden_layers": c.whole("depth", LAYERS),
        "num_attention_heads": c.whole("num_heads", WIDTH),
    }
    flags = ("swiglu_mlp", "scale_mlp", "scale_attn_inner", "use_rot_pos_emb", "use_post_norm")
    for flag in flags:
        c.require(flag, True, False)
    swiglu, mlp_norm, attention_norm, rotary, post_norm = map(c.get, flags)
    c.require("qkv_fused", not mlp_norm)  # as all releases are
    grid = 0
    if rotary:
        grid = c.wholes("ref_feat_shape", SIDE, 2)[0]
        c.require("ref_feat_shape", [grid, grid], (grid, grid))
    notes += c.unknown(("ref_feat_shape", "global_pool", "num_classes", "use_fc_norm"))
    return EvaConfig(
        **sizes,
        intermediate_size=int(sizes["hidden_size"] * c.real("mlp_ratio", 1_000)),
        layer_norm_eps=_EPSILON,
        hidden_act=SWIGLU if swiglu else "gelu",
        rope_grid=grid,
        attention_norm=attention_norm,
        mlp_norm=mlp_norm,
        post_norm=post_norm,
        layer_scale=c.real("init_values", 1_000) if c.get("init_values") else 0.0,
    )


def fits(config: TowerConfig) -> bool:
    """Whether timm has such a tower."""
    return (
        isinstance(config, EvaConfig)
        and config.layer_norm_eps == _EPSILON
        and config.hidden_act in (SWIGLU, "gelu")
        and config.features == "post_norm"
    )


def table(config: EvaConfig, head: Head = None) -> Table:
    """Of a tower; what masked image modelling has besides stays here."""
    return eva_part(dataclasses.replace(config, mask_token=False), released(config), head)


def is_one(directory: pathlib.Path) -> bool:
    """Whether the small files are those of an EVA tower of timm."""
    path = directory / "config.json"
    return path.is_file() and str(read_object(path).get("architecture")) in SIZES


def classes_of(directory: pathlib.Path) -> int:
    """How many a head tells apart; 0 where there is none."""
    content = read_object(directory / "config.json")
    return Section(str(directory / "config.json"), content, {"num_classes": 0}).whole(
        "num_classes", WIDTH, least=0
    )


def write(export: Export, pooling: dict[str, Any], classes: int = 0) -> dict[str, str]:
    """config.json."""
    vision = export.config.vision
    size = [3, vision.image_size, vision.image_size]
    content = {
        "architecture": _ARCHITECTURE,
        "num_classes": classes,
        "num_features": vision.hidden_size,
        "model_args": arguments(vision) | pooling,
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": size,
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": CLIP_MEAN,
            "std": CLIP_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    write_object(export.directory / "config.json", content)
    return {}


def _read_like(directory: pathlib.Path, notes: list[str], like: Any) -> Any:
    found = read_config(directory, notes)
    if isinstance(like.vision, EvaConfig):
        found = dataclasses.replace(found, **{name: getattr(like.vision, name) for name in UNSAID})
    return dataclasses.replace(like, vision=found)


def _whole_file(directory: pathlib.Path, tensors: dict, most: int) -> SafetensorsWriter:
    """timm opens no shards."""
    del most
    return SafetensorsWriter(directory, tensors, sys.maxsize)


TOWER = Format(
    "timm",
    "an EVA tower of timm",
    matches=lambda directory: is_one(directory) and not classes_of(directory),
    read_config=_read_like,
    table=lambda config, directory: table(config.vision),
    write=lambda export: write(export, {"global_pool": "token"}),
    loads="timm.create_model",
    use=_USE,
    package="timm",
    whole=False,
    writer=_whole_file,
    fits=lambda config: fits(config.vision),
    tied=None,
)


def given(place: pathlib.Path, config: TowerConfig, notes: list[str]) -> Opened:
    """A tower under `vision_model`, without a head.

    Raises:
      UserError: for a config with another tower, or of other sizes.
    """
    path = existing_directory(place)
    if not isinstance(config, EvaConfig):
        raise UserError(
            "--part eva", f"{path}, and a config whose tower is {config.kind!r}",
            "a config with an EVA tower", "Leave it out, or change model.vision.",
        )  # fmt: skip
    check_same(str(path), read_config(path, notes), config, ignore=(*UNSAID, "layer_scale"))
    weights = open_directory(path)
    tower = dataclasses.replace(config, mask_token=False)
    return eva_part(tower, layout_of(weights.tensors, str(path))), weights


def pixels(config: TowerConfig, rng: np.random.Generator) -> np.ndarray:
    """A few pictures in -1..1."""
    size = config.image_size
    return rng.uniform(-1, 1, (ROWS, size, size, 3)).astype(np.float32)


def outputs(directory: pathlib.Path, given_pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every token, and what the head makes of them, as timm works them out."""
    import timm
    import torch

    model = timm.create_model(f"local-dir:{directory.resolve()}", pretrained=True).float().eval()
    prepared = np.array(by_clip_statistics(jnp.asarray(given_pixels))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(prepared.copy()))
        return tokens.numpy(), model.forward_head(tokens).numpy()
