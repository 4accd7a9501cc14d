"""MetaQuery's parts in PyTorch: networks of transformers and diffusers, and the connector.

What others wrote runs here with the tensors of an export. The connector is Qwen2's blocks of
transformers without a mask, with norms of queries and keys behind the rotation
(facebookresearch/metaquery, `models/transformer_encoder.py`).
"""

from collections.abc import Mapping

import diffusers
import torch
import transformers
from torch import nn

from unijax.interop.config_files import tower_json
from unijax.interop.diffusers_configs import class_of, config_json
from unijax.models.connector import ConnectorConfig
from unijax.models.llama import LlamaConfig
from unijax.systems.metaquery import MetaQueryConfig

State = Mapping[str, torch.Tensor]


def within(state: State, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose name begins so, without the beginning."""
    return {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}


def decoder(config: LlamaConfig, state: State) -> nn.Module:
    """transformers' Llama, Qwen2 or Qwen2.5-VL's language model, without its table and head."""
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    sizes = {
        "vocab_size": 1, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
    }  # fmt: skip
    if config.mrope_section:
        module = transformers.models.qwen2_5_vl
        rope["mrope_section"] = list(config.mrope_section)
        of = module.configuration_qwen2_5_vl.Qwen2_5_VLTextConfig(
            **sizes, rope_parameters=rope, use_sliding_window=False
        )
        network = module.modeling_qwen2_5_vl.Qwen2_5_VLTextModel
    elif config.qkv_bias:
        of = transformers.Qwen2Config(**sizes, rope_parameters=rope)
        network = transformers.Qwen2Model
    else:
        of = transformers.LlamaConfig(**sizes, head_dim=config.head_dim, rope_parameters=rope)
        network = transformers.LlamaModel
    model = network._from_config(of, attn_implementation="eager")
    table = {"embed_tokens.weight": torch.zeros(1, config.hidden_size)}
    model.load_state_dict({**state, **table})
    return model.eval()


def tower(config: MetaQueryConfig, state: State) -> nn.Module:
    """transformers' SigLIP, or Qwen2.5-VL's tower."""
    v = config.vision
    if config.merges:
        module = transformers.models.qwen2_5_vl
        of = module.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
            depth=v.depth, hidden_size=v.hidden_size, num_heads=v.num_heads,
            intermediate_size=v.intermediate_size, patch_size=v.patch_size,
            window_size=v.window_size, out_hidden_size=v.out_hidden_size,
            fullatt_block_indexes=list(v.fullatt_block_indexes),
            spatial_merge_size=v.spatial_merge_size,
        )  # fmt: skip
        network = module.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel
        model = network._from_config(of, attn_implementation="eager")
        model.load_state_dict(state)
        return model.eval()
    of = transformers.SiglipVisionConfig(**tower_json(v), vision_use_head=False)
    model = transformers.SiglipVisionModel._from_config(of, attn_implementation="eager")
    names = {n.removeprefix("vision_model."): n for n in model.state_dict()}
    own = {names[n]: x for n, x in state.items()}
    lacking = set(names.values()) - own.keys()
    if any("post_layernorm" not in n for n in lacking):
        raise RuntimeError(f"the export lacks {sorted(lacking)}")
    model.load_state_dict(own, strict=False)
    return model.eval()


class HeadNorm(nn.Module):
    """Every head at length one, times the root of its width and a scale."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, 1, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x, dim=-1) * self.gamma * x.shape[-1] ** 0.5


class Encoder(nn.Module):
    """Blocks whose positions see each other whole."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        heads, dim = config.blocks.num_attention_heads, config.head_dim
        qwen = transformers.Qwen2Config(
            vocab_size=1, hidden_size=config.width, intermediate_size=4 * config.width,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=heads,
            num_key_value_heads=heads,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )  # fmt: skip
        model = transformers.Qwen2Model(qwen)
        self.layers, self.rotary = model.layers, model.rotary_emb
        for layer in self.layers:
            for name in ("q_norm", "k_norm"):
                setattr(layer.self_attn, name, HeadNorm(heads, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turn = transformers.models.qwen2.modeling_qwen2.apply_rotary_pos_emb
        tables = self.rotary(x, torch.arange(x.shape[1])[None])
        for layer in self.layers:
            attn, (b, n, d) = layer.self_attn, x.shape
            h = layer.input_layernorm(x)
            q, k, v = (
                project(h).view(b, n, -1, attn.head_dim).transpose(1, 2)
                for project in (attn.q_proj, attn.k_proj, attn.v_proj)
            )
            q, k = turn(q, k, *tables)
            y = nn.functional.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
            x = x + attn.o_proj(y.transpose(1, 2).reshape(b, n, d))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x


def connector(config: ConnectorConfig) -> nn.Sequential:
    """In the order of the released code."""
    project = [
        nn.Linear(config.hidden_size, config.output_size),
        nn.GELU(approximate="tanh"),
        nn.Linear(config.output_size, config.output_size),
    ]
    encoder, norm = [Encoder(config)], nn.RMSNorm(config.output_size, eps=1e-5)
    parts = encoder + project if config.order == "enc_proj" else project + encoder
    return nn.Sequential(*parts, norm).eval()


def of_diffusers(config: object, state: State) -> nn.Module:
    """A network of diffusers."""
    model = getattr(diffusers, class_of(config)).from_config(config_json(config))
    model.load_state_dict(state)
    return model.eval()
