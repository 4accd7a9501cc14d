"""Groups of keys that config.json of several exported models have."""

import dataclasses

from unijax.core.errors import UserError
from unijax.core.vocab import SpecialIds
from unijax.interop.config_parts import ACTIVATIONS, check_janus_vq
from unijax.models.clip import ClipVisionConfig
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig


def special_ids(special: SpecialIds) -> dict:
    """As configs of transformers call them."""
    return {
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
    }


# Of a decoder: what a plain Llama does not have.
_NOT_LLAMA = (
    "rope_scaling", "mrope_section", "qkv_bias", "qk_norm", "norm_order", "tie_word_embeddings",
)  # fmt: skip


def llama_json(config: LlamaConfig, dtype: str) -> dict:
    """Of a plain Llama, as part of a whole model's.

    Raises:
      UserError: if the decoder is none.
    """
    fields = {f.name: f.default for f in dataclasses.fields(config)}
    for name in _NOT_LLAMA:
        if (found := getattr(config, name)) != fields[name]:
            raise UserError(
                f"text.{name}", repr(found), f"{fields[name]!r}, as a plain Llama has it",
                "This model cannot be exported.",
            )  # fmt: skip
    return {
        # No `architectures`: llama.cpp's converter takes what stands here for the whole model's.
        "model_type": "llama",
        **decoder_json(config),
        "head_dim": config.head_dim,
        # transformers 5 reads rope_parameters, earlier releases rope_theta.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }


def decoder_json(config: LlamaConfig) -> dict:
    """What transformers' decoders of Llama's kind, Qwen2 among them, all call the same."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
    }


# Names of activations, ours and theirs.
_ACTIVATIONS = {ours: theirs for theirs, ours in ACTIVATIONS.items()} | {"quick_gelu": "quick_gelu"}


def tower_json(config: SiglipConfig | ClipVisionConfig) -> dict:
    """What transformers' vision towers of SigLIP and CLIP both call the same."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_channels": 3,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": _ACTIVATIONS[config.hidden_act],
        "layer_norm_eps": config.layer_norm_eps,
    }


def siglip_json(config: SiglipConfig) -> dict:
    """Of a `SiglipVisionModel`, without the head that nothing here has."""
    return {
        "model_type": "siglip_vision_model",
        **tower_json(config),
        "vision_use_head": False,
    }


def janus_vq_json(config: VQConfig) -> dict:
    """Of a `JanusVQVAE`.

    Raises:
      UserError: if that class cannot be of this kind.
    """
    check_janus_vq(config, "image tokenizer")
    return {
        "model_type": "janus_vqgan",
        "embed_dim": config.embed_dim,
        "num_embeddings": config.num_embeddings,
        "double_latent": False,
        "latent_channels": config.latent_channels,
        "in_channels": 3,
        "out_channels": 3,
        "base_channels": config.base_channels,
        "channel_multiplier": list(config.channel_multiplier),
        "num_res_blocks": config.num_res_blocks,
        "num_patches": config.grid,
    }
