"""config.json of exported models, as the two sides that read it expect it."""

import math

from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.interop.config_files import janus_vq_json, llama_json, special_ids
from unijax.interop.config_parts import check_janus_vq
from unijax.models.siglip import SIZES as SIGLIP_SIZES
from unijax.models.vqgan import SIZES as VQ_SIZES
from unijax.systems.janus import JanusConfig


def require_tower(config: JanusConfig, name: str) -> None:
    """Raises a UserError for a vision tower that the formats of Janus do not have."""
    if config.vision.kind != "siglip":
        raise UserError(
            "vision tower", f"kind={config.vision.kind!r}",
            f"'siglip', the only tower that the format {name!r} has",
            "This model cannot be exported.",
        )  # fmt: skip
    if (config.vision.hidden_act, config.vision.features) != ("gelu", "post_norm"):
        raise UserError(
            "vision tower",
            f"hidden_act={config.vision.hidden_act!r}, features={config.vision.features!r}",
            f"'gelu' and 'post_norm', the only kind that the format {name!r} has",
            "This model cannot be exported.",
        )


def hf_config(config: JanusConfig, dtype: str, special: SpecialIds) -> dict:
    """Of `JanusForConditionalGeneration`.

    Raises:
      UserError: if that class cannot be of this shape.
    """
    text, vision, vq = config.text, config.vision, config.vq
    if (vision.image_size // vision.patch_size) != vq.grid:
        raise UserError(
            "image grids",
            f"{vision.num_tokens} tokens of an understood and {vq.num_tokens} of a generated image",
            "equal numbers, as transformers' Janus has one for both",
            "Export this model with --format deepseek.",
        )
    ratio = vision.intermediate_size / vision.hidden_size
    if int(vision.hidden_size * ratio) != vision.intermediate_size:  # rounded down, and cut
        ratio = math.nextafter(ratio, math.inf)
    assert int(vision.hidden_size * ratio) == vision.intermediate_size, ratio
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "dtype": dtype,
        "image_token_id": special.image_placeholder,
        # Its default is True, and it would replace the head by the embedding.
        "tie_word_embeddings": False,
        "text_config": {**llama_json(text, dtype), **special_ids(special)},
        "vision_config": {
            "model_type": "janus_vision_model",
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": 3,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_act": "gelu",
            "layer_norm_eps": vision.layer_norm_eps,
            "mlp_ratio": ratio,
            "attention_bias": True,
            "use_qk_norm": False,
            "projection_dim": text.hidden_size,
            "depth": 2,
            "num_image_tokens": vision.num_tokens,
        },
        "vq_config": {
            **janus_vq_json(vq),
            "projection_dim": text.hidden_size,
            "num_hidden_layers": 2,
            "hidden_act": "gelu",
            "image_token_embed_dim": text.hidden_size,
        },
    }


def deepseek_config(config: JanusConfig, dtype: str, special: SpecialIds) -> dict:
    """Of `MultiModalityCausalLM`.

    That code knows one tower and one image tokenizer by name. Other sizes are called "custom",
    which it refuses, with the sizes beside it for `unijax import`.

    Raises:
      UserError: if that class cannot be of this kind.
    """
    text, vision, vq = config.text, config.vision, config.vq
    check_janus_vq(vq, "image tokenizer")

    def adaptor(kind: str, width: int) -> dict:
        params = {
            "projector_type": "mlp_gelu",
            "depth": 2,
            "input_dim": width,
            "n_embed": text.hidden_size,
        }
        return {"model_type": kind, "cls": "MlpProjector", "params": params}

    tower = {"image_size": vision.image_size, "select_feature": "same", "select_layer": -1}
    named = [
        n for n, size in SIGLIP_SIZES.items() if size == vision and n.startswith("siglip_large")
    ]
    tower["model_name"] = named[0] if named else "custom"
    if not named:
        tower["sizes"] = {
            name: getattr(vision, name)
            for name in (
                "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "layer_norm_eps",
            )
        }  # fmt: skip
    codes = {"image_token_size": vq.num_embeddings, "n_embed": vq.embed_dim}
    if vq != VQ_SIZES["vq_16"]:
        codes["sizes"] = {
            "image_size": vq.image_size,
            "base_channels": vq.base_channels,
            "channel_multiplier": list(vq.channel_multiplier),
            "num_res_blocks": vq.num_res_blocks,
            "latent_channels": vq.latent_channels,
        }
    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "torch_dtype": dtype,
        "language_config": {**llama_json(text, dtype), **special_ids(special)},
        "vision_config": {"model_type": "vision", "cls": "CLIPVisionTower", "params": tower},
        "aligner_config": adaptor("aligner", vision.hidden_size),
        "gen_vision_config": {
            "model_type": "gen_vision",
            "cls": "custom" if "sizes" in codes else "VQ-16",
            "params": codes,
        },
        "gen_aligner_config": adaptor("gen_aligner", vq.embed_dim),
        "gen_head_config": {
            "model_type": "gen_head",
            "cls": "vision_head",
            "params": {
                "n_embed": text.hidden_size,
                "image_token_embed": text.hidden_size,
                "image_token_size": vq.num_embeddings,
            },
        },
    }
