"""config.json of diffusers' networks as our sizes, and back.

What the other side can say and this project's networks cannot do is refused by name. Keys and
defaults were read in diffusers 0.42.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.interop.sections import LAYERS, WIDTH, Section
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.dc_autoencoder import DCAutoencoderConfig
from unijax.models.sana import SanaConfig
from unijax.models.unet import UNetConfig

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a class of diffusers says about itself.

    Attributes:
      config: our class.
      fields: of their keys, the names of our fields; defaults are in `defaults`, too.
      defaults: of every key, for those that a file leaves out.
      derived: of our sizes, what keys say that are no field of ours: a file must say the same.
      fields_of: of a file, our fields that are no key of theirs.
      free: keys that say how to compute, not what.
    """

    config: type
    fields: Mapping[str, str]
    defaults: Values
    derived: Callable[[Any], Values] = lambda config: {}
    fields_of: Callable[[Section], Values] = lambda section: {}
    free: tuple[str, ...] = ()


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _autoencoder_blocks(config: AutoencoderConfig) -> Values:
    levels = len(config.block_out_channels)
    return {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _unet_blocks(config: UNetConfig) -> Values:
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention_levels]
    return {
        "down_block_types": down,
        "up_block_types": [t.replace("Down", "Up") for t in reversed(down)],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if config.mid_block else None,
    }


def _unet_fields(section: Section) -> Values:
    down = section.get("down_block_types")
    return {
        "attention_levels": tuple(t == "CrossAttnDownBlock2D" for t in _listed(down)),
        "mid_block": section.get("mid_block_type") is not None,
    }


def _dc_blocks(config: DCAutoencoderConfig) -> Values:
    fine = len(config.block_out_channels) - config.transformer_levels
    types = ["ResBlock"] * fine + ["EfficientViTBlock"] * config.transformer_levels
    scales = [[]] * fine + [[5]] * config.transformer_levels
    return {
        "decoder_block_out_channels": list(config.block_out_channels),
        "encoder_block_types": types,
        "decoder_block_types": types,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
    }


def _dc_fields(section: Section) -> Values:
    types = _listed(section.get("encoder_block_types"))
    return {"transformer_levels": types.count("EfficientViTBlock")}


def _listed(value: Any) -> list:
    """What is no list is refused afterwards, as are other values of one."""
    return value if isinstance(value, list) else []


SIZES = {
    "AutoencoderKL": Sizes(
        AutoencoderConfig,
        {
            "sample_size": "image_size",
            **_same(
                "latent_channels", "block_out_channels", "layers_per_block", "use_quant_conv",
                "use_post_quant_conv", "scaling_factor", "shift_factor",
            ),
        },
        {
            "sample_size": 32, "latent_channels": 4, "block_out_channels": [64],
            "layers_per_block": 1, "use_quant_conv": True, "use_post_quant_conv": True,
            "scaling_factor": 0.18215, "shift_factor": None, "in_channels": 3, "out_channels": 3,
            "act_fn": "silu", "norm_num_groups": 32, "mid_block_add_attention": True,
            "latents_mean": None, "latents_std": None, "force_upcast": True,
            "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
        },
        derived=_autoencoder_blocks,
        free=("force_upcast",),
    ),
    "UNet2DConditionModel": Sizes(
        UNetConfig,
        {
            "attention_head_dim": "num_attention_heads",
            **_same(
                "sample_size", "in_channels", "out_channels", "block_out_channels",
                "layers_per_block", "cross_attention_dim",
            ),
        },
        {
            "sample_size": 64, "in_channels": 4, "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
            "cross_attention_dim": 1280, "attention_head_dim": 8,
            "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
            "mid_block_type": "UNetMidBlock2DCrossAttn", "center_input_sample": False,
            "flip_sin_to_cos": True, "freq_shift": 0, "only_cross_attention": False,
            "downsample_padding": 1, "mid_block_scale_factor": 1, "dropout": 0.0, "act_fn": "silu",
            "norm_num_groups": 32, "norm_eps": 1e-5, "transformer_layers_per_block": 1,
            "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None,
            "encoder_hid_dim_type": None, "num_attention_heads": None,
            "dual_cross_attention": False, "use_linear_projection": False,
            "class_embed_type": None, "addition_embed_type": None, "addition_time_embed_dim": None,
            "num_class_embeds": None, "upcast_attention": False,
            "resnet_time_scale_shift": "default", "resnet_skip_time_act": False,
            "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional",
            "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None,
            "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
            "projection_class_embeddings_input_dim": None, "attention_type": "default",
            "class_embeddings_concat": False, "mid_block_only_cross_attention": None,
            "cross_attention_norm": None, "addition_embed_type_num_heads": 64,
        },
        derived=_unet_blocks,
        fields_of=_unet_fields,
        free=("upcast_attention", "addition_embed_type_num_heads"),
    ),
    "SanaTransformer2DModel": Sizes(
        SanaConfig,
        _same(
            "sample_size", "in_channels", "out_channels", "num_layers", "num_attention_heads",
            "attention_head_dim", "num_cross_attention_heads", "cross_attention_head_dim",
            "caption_channels", "mlp_ratio",
        ),
        {
            "sample_size": 32, "in_channels": 32, "out_channels": 32, "num_layers": 20,
            "num_attention_heads": 70, "attention_head_dim": 32, "num_cross_attention_heads": 20,
            "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
            "caption_channels": 2304, "mlp_ratio": 2.5, "dropout": 0.0, "attention_bias": False,
            "patch_size": 1, "norm_elementwise_affine": False, "norm_eps": 1e-6,
            "interpolation_scale": None, "guidance_embeds": False, "guidance_embeds_scale": 0.1,
            "qk_norm": None, "timestep_scale": 1.0,
        },
        derived=lambda config: {"cross_attention_dim": config.width},
        free=("guidance_embeds_scale",),
    ),
    "AutoencoderDC": Sizes(
        DCAutoencoderConfig,
        {
            "encoder_block_out_channels": "block_out_channels",
            **_same(
                "latent_channels", "encoder_layers_per_block", "decoder_layers_per_block",
                "attention_head_dim", "scaling_factor",
            ),
        },
        {
            "latent_channels": 32, "attention_head_dim": 32, "scaling_factor": 1.0,
            "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
            "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
            "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
            "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
            "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
            "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
            "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
            "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle",
            "in_channels": 3, "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
            "encoder_out_shortcut": True, "decoder_in_shortcut": True,
            "decoder_conv_act_fn": "relu",
        },
        derived=_dc_blocks,
        fields_of=_dc_fields,
    ),
}  # fmt: skip


def read_config(directory: pathlib.Path) -> Any:
    """Our sizes of a network's directory.

    Raises:
      UserError: a class, or something in its config, that this project does not have, by name.
    """
    path = directory / "config.json"
    given = read_object(path)
    name = given.get("_class_name")
    if not isinstance(name, str) or name not in SIZES:
        raise UserError(
            f"{path}: _class_name", quoted(name), f"one of {sorted(SIZES)}",
            "Give the directory of such a network.",
        )  # fmt: skip
    sizes = SIZES[name]
    section = Section(str(path), given, sizes.defaults)
    kinds = {f.name: f.type for f in dataclasses.fields(sizes.config)}
    fields = {ours: _size(section, theirs, kinds[ours]) for theirs, ours in sizes.fields.items()}
    config = sizes.config(**fields, **sizes.fields_of(section))
    for key, expected in {**sizes.defaults, **sizes.derived(config)}.items():
        if key not in sizes.fields and key not in sizes.free:
            section.require(key, expected)
    # What no network of this class has: an empty value says nothing.
    others = given.keys() - sizes.defaults.keys()
    section.plain({key: () for key in sorted(others) if not key.startswith("_")})
    return config


def config_json(config: Any) -> dict:
    """config.json of our sizes.

    Raises:
      UserError: sizes that diffusers' class cannot say.
    """
    name = class_of(config)
    sizes = SIZES[name]
    if name == "UNet2DConditionModel" and not config.cross_attention_dim:
        raise UserError(
            "UNetConfig.cross_attention_dim",
            "0",
            f"a width: every {name} has a context",
            "Only such a U-Net can be written for diffusers.",
        )
    values = {theirs: getattr(config, ours) for theirs, ours in sizes.fields.items()}
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return {"_class_name": name, **sizes.defaults, **values, **sizes.derived(config)}


def class_of(config: Any) -> str:
    """diffusers' class of our sizes."""
    return next(name for name, sizes in SIZES.items() if type(config) is sizes.config)


def _size(section: Section, key: str, kind: Any) -> Any:
    if kind is bool:
        section.require(key, True, False)
        return section.get(key)
    most = LAYERS if "layers" in key else WIDTH
    if kind is int:
        return section.whole(key, most)
    if kind is float:
        if key == "shift_factor" and not section.get(key):
            return 0.0  # null: latents are not shifted
        return section.real(key, 1e6)
    assert kind == tuple[int, ...], (key, kind)
    return section.wholes(key, most, 32)
