"""deepseek-ai/Janus's state dict, written out by hand from transformers' with its weights."""

import torch

HALVES = {"encoder": ("down", 1), "decoder": ("up", 2)}  # blocks of a level in the small model


def deepseek_state(model) -> dict[str, torch.Tensor]:
    """Names as `MultiModalityCausalLM.state_dict()` gives them, of the small model of the tests."""
    theirs = dict(model.state_dict())
    out: dict[str, torch.Tensor] = {}

    def move(new: str, old: str, leaves=("weight", "bias")) -> None:
        for leaf in leaves:
            out[f"{new}.{leaf}"] = theirs.pop(f"{old}.{leaf}")

    for name in [n for n in theirs if n.startswith("model.language_model.")]:
        out["language_model.model." + name.removeprefix("model.language_model.")] = theirs.pop(name)
    move("language_model.lm_head", "lm_head", ["weight"])

    tower, hf = "vision_model.vision_tower", "model.vision_model"
    positions = theirs.pop(f"{hf}.embeddings.position_embedding.weight")
    out[f"{tower}.pos_embed"] = positions[None]
    move(f"{tower}.patch_embed.proj", f"{hf}.embeddings.patch_embedding")
    move(f"{tower}.norm", f"{hf}.post_layernorm")
    for i in range(2):
        block, layer = f"{tower}.blocks.{i}", f"{hf}.encoder.layers.{i}"
        for leaf in ("weight", "bias"):
            parts = [theirs.pop(f"{layer}.self_attn.{n}_proj.{leaf}") for n in "qkv"]
            out[f"{block}.attn.qkv.{leaf}"] = torch.cat(parts)
        move(f"{block}.attn.proj", f"{layer}.self_attn.projection_layer")
        for j in (1, 2):
            move(f"{block}.norm{j}", f"{layer}.layer_norm{j}")
            move(f"{block}.mlp.fc{j}", f"{layer}.mlp.fc{j}")
    out[f"{tower}.attn_pool.latent"] = torch.randn(1, 1, 32)
    out[f"{tower}.attn_pool.q.weight"] = torch.randn(32, 32)

    out |= {f"gen_vision_model.{n}": x for n, x in llamagen_state(theirs).items()}

    move("aligner.layers.0", "model.aligner.fc1")
    move("aligner.layers.2", "model.aligner.hidden_layers.0")
    move("gen_aligner.layers.0", "model.generation_aligner.fc1")
    move("gen_aligner.layers.2", "model.generation_aligner.hidden_layers.0")
    move("gen_head.output_mlp_projector", "model.generation_head.proj_out")
    move("gen_head.vision_head", "model.generation_head.vision_head")
    move("gen_embed", "model.generation_embeddings", ["weight"])
    assert not theirs, theirs.keys()
    return out


def llamagen_state(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """LlamaGen's `VQModel.state_dict()`; takes what it uses out of `theirs`."""
    out: dict[str, torch.Tensor] = {}

    def move(new: str, old: str) -> None:
        found = [n for n in theirs if n.startswith(f"model.vqmodel.{old}.")]
        assert found, old
        for name in found:
            out[new + name.removeprefix(f"model.vqmodel.{old}")] = theirs.pop(name)

    for half, (level_word, blocks) in HALVES.items():
        for end in ("conv_in", "norm_out", "conv_out"):
            move(f"{half}.{end}", f"{half}.{end}")
        for i, word in enumerate(("block_1", "attn_1", "block_2")):
            move(f"{half}.mid.{i}", f"{half}.mid.{word}")
        coarsest = {"encoder": 1, "decoder": 0}[half]
        for level in range(2):
            new, old = f"{half}.conv_blocks.{level}", f"{half}.{level_word}.{level}"
            for i in range(blocks):
                move(f"{new}.res.{i}", f"{old}.block.{i}")
                if level == coarsest:
                    move(f"{new}.attn.{i}", f"{old}.attn.{i}")
        resample = {"encoder": (0, "downsample"), "decoder": (0, "upsample")}[half]
        move(f"{half}.conv_blocks.0.{resample[1]}", f"{half}.{level_word}.0.{resample[1]}")
    for name in ("quantize.embedding", "quant_conv", "post_quant_conv"):
        move(name, name)
    out["quantize.codebook_used"] = torch.zeros(65536)
    return out


def deepseek_config() -> dict:
    """config.json of the small model: the release's keys, with sizes that its code has by name."""
    adaptor = {"cls": "MlpProjector"}
    params = {"depth": 2, "n_embed": 32, "projector_type": "mlp_gelu"}
    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "language_config": {
            "model_type": "llama", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "torch_dtype": "bfloat16",
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {
                "image_size": 64, "model_name": "custom", "select_feature": "same",
                "select_layer": -1,
                "sizes": {
                    "patch_size": 16, "hidden_size": 32, "intermediate_size": 48,
                    "num_hidden_layers": 2, "num_attention_heads": 2,
                },
            },
        },
        "aligner_config": adaptor | {"params": params | {"input_dim": 32}},
        "gen_aligner_config": adaptor | {"params": params | {"input_dim": 8}},
        "gen_vision_config": {
            "cls": "custom",
            "params": {
                "image_token_size": 48, "n_embed": 8,
                "sizes": {
                    "image_size": 8, "base_channels": 32, "channel_multiplier": [1, 2],
                    "num_res_blocks": 1, "latent_channels": 16,
                },
            },
        },
        "gen_head_config": {
            "cls": "vision_head",
            "params": {"image_token_embed": 32, "image_token_size": 48, "n_embed": 32},
        },
    }  # fmt: skip
