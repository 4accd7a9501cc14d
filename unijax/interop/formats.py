"""The tables: Janus in transformers, Janus in deepseek-ai's release, and the parts of stage 1.

Names were read in transformers 5 (`modeling_janus.py`, `modeling_llama.py`, `modeling_siglip.py`),
in deepseek-ai/Janus (`modeling_vlm.py`, `siglip_vit.py`, `vq_model.py`, `projector.py`) and in
FoundationVision/LlamaGen (`tokenizer_image/vq_model.py`).
"""

import re

from unijax.interop.table import CONV, LEADING_ONE, LINEAR, PATCHES, Entry, Table
from unijax.models.siglip import SiglipConfig
from unijax.models.vqgan import VQConfig
from unijax.systems.janus import JanusConfig

Entries = list[Entry]


def _linear(ours: str, theirs: str, bias: bool = True) -> Entries:
    kernel = Entry((f"{ours}/kernel",), f"{theirs}.weight", LINEAR)
    return [kernel, Entry((f"{ours}/bias",), f"{theirs}.bias")] if bias else [kernel]


def _norm(ours: str, theirs: str) -> Entries:
    return [
        Entry((f"{ours}/scale",), f"{theirs}.weight"),
        Entry((f"{ours}/bias",), f"{theirs}.bias"),
    ]


def _conv(ours: str, theirs: str) -> Entries:
    return [
        Entry((f"{ours}/kernel",), f"{theirs}.weight", CONV),
        Entry((f"{ours}/bias",), f"{theirs}.bias"),
    ]


def _llama(ours: str, model: str, lm_head: str) -> Entries:
    """`model` is the prefix of the decoder without its head."""
    layer, theirs = f"{ours}/layers", f"{model}.layers.{{i}}"
    entries = [
        Entry((f"{ours}/embed_tokens/embedding",), f"{model}.embed_tokens.weight"),
        Entry((f"{ours}/norm/scale",), f"{model}.norm.weight"),
        Entry((f"{ours}/lm_head/kernel",), lm_head, LINEAR),
    ]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        entries.append(Entry((f"{layer}/{norm}/scale",), f"{theirs}.{norm}.weight"))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        entries += _linear(f"{layer}/self_attn/{name}", f"{theirs}.self_attn.{name}", bias=False)
    for name in ("gate_proj", "up_proj", "down_proj"):
        entries += _linear(f"{layer}/mlp/{name}", f"{theirs}.mlp.{name}", bias=False)
    return entries


def _siglip(config: SiglipConfig, ours: str, theirs: str, attention_out: str) -> Entries:
    """transformers' names; `theirs` ends with a dot or is empty."""
    layer, block = f"{ours}/encoder/layers", f"{theirs}encoder.layers.{{i}}"
    patch = f"{theirs}embeddings.patch_embedding"
    entries = [
        Entry((f"{ours}/embeddings/patch_embedding/kernel",), f"{patch}.weight", PATCHES),
        Entry((f"{ours}/embeddings/patch_embedding/bias",), f"{patch}.bias"),
        Entry(
            (f"{ours}/embeddings/position_embedding/embedding",),
            f"{theirs}embeddings.position_embedding.weight",
        ),
    ]
    for norm in ("layer_norm1", "layer_norm2"):
        entries += _norm(f"{layer}/{norm}", f"{block}.{norm}")
    for name in ("q_proj", "k_proj", "v_proj"):
        entries += _linear(f"{layer}/self_attn/{name}", f"{block}.self_attn.{name}")
    entries += _linear(f"{layer}/self_attn/projection_layer", f"{block}.self_attn.{attention_out}")
    for name in ("fc1", "fc2"):
        entries += _linear(f"{layer}/mlp/{name}", f"{block}.mlp.{name}")
    if config.features == "post_norm":
        entries += _norm(f"{ours}/post_layernorm", f"{theirs}post_layernorm")
    return entries


def _timm_siglip(config: SiglipConfig, ours: str, theirs: str) -> Entries:
    """Names of timm's ViT, with q, k and v fused as rows [q; k; v]."""
    layer, block = f"{ours}/encoder/layers", f"{theirs}.blocks.{{i}}"
    qkv = [f"{layer}/self_attn/{n}" for n in ("q_proj", "k_proj", "v_proj")]
    patch = f"{theirs}.patch_embed.proj"
    entries = [
        Entry((f"{ours}/embeddings/patch_embedding/kernel",), f"{patch}.weight", PATCHES),
        Entry((f"{ours}/embeddings/patch_embedding/bias",), f"{patch}.bias"),
        Entry(
            (f"{ours}/embeddings/position_embedding/embedding",),
            f"{theirs}.pos_embed",
            LEADING_ONE,
        ),
        Entry(tuple(f"{p}/kernel" for p in qkv), f"{block}.attn.qkv.weight", LINEAR),
        Entry(tuple(f"{p}/bias" for p in qkv), f"{block}.attn.qkv.bias"),
    ]
    entries += _linear(f"{layer}/self_attn/projection_layer", f"{block}.attn.proj")
    for i in (1, 2):
        entries += _norm(f"{layer}/layer_norm{i}", f"{block}.norm{i}")
        entries += _linear(f"{layer}/mlp/fc{i}", f"{block}.mlp.fc{i}")
    if config.features == "post_norm":
        entries += _norm(f"{ours}/post_layernorm", f"{theirs}.norm")
    return entries


# Words of the tokenizer's two dialects.
_HF_VQ = {
    "down": "encoder.down", "up": "decoder.up", "block": "block",
    "mid": ("block_1", "attn_1", "block_2"),
}  # fmt: skip
_LLAMAGEN_VQ = {
    "down": "encoder.conv_blocks", "up": "decoder.conv_blocks", "block": "res",
    "mid": ("0", "1", "2"),
}  # fmt: skip


def _vq(config: VQConfig, ours: str, theirs: str, words: dict) -> Entries:
    """`theirs` ends with a dot or is empty."""
    entries = [Entry((f"{ours}/quantize/embedding",), f"{theirs}quantize.embedding.weight")]
    for name in ("quant_conv", "post_quant_conv"):
        entries += _conv(f"{ours}/{name}", f"{theirs}{name}")
    levels = config.level_channels
    entries += _vq_half(f"{ours}/encoder", f"{theirs}encoder", words)
    entries += _vq_half(f"{ours}/decoder", f"{theirs}decoder", words)
    for name, side, order, blocks, resample in (
        ("down", "encoder", levels, config.num_res_blocks, "downsample"),
        ("up", "decoder", levels[::-1], config.num_res_blocks + 1, "upsample"),
    ):
        # The first level of the decoder takes over from `mid`, which has the coarsest width.
        channels = levels[-1] if name == "up" else config.base_channels
        for level, out in enumerate(order):
            path, prefix = f"{ours}/{side}/{name}_{level}", f"{theirs}{words[name]}.{level}"
            coarsest = level == (0 if name == "up" else len(order) - 1)
            for i in range(blocks):
                block = f"{prefix}.{words['block']}.{i}"
                entries += _res_block(f"{path}/block_{i}", block, shortcut=channels != out)
                channels = out
                if coarsest:
                    entries += _attention(f"{path}/attn_{i}", f"{prefix}.attn.{i}")
            if level < len(order) - 1:
                entries += _conv(f"{path}/{resample}/conv", f"{prefix}.{resample}.conv")
    return entries


def _vq_half(ours: str, theirs: str, words: dict) -> Entries:
    """What encoder and decoder share: the ends and the middle."""
    block_1, attention, block_2 = (f"{theirs}.mid.{word}" for word in words["mid"])
    return [
        *_conv(f"{ours}/conv_in", f"{theirs}.conv_in"),
        *_res_block(f"{ours}/mid/block_1", block_1, shortcut=False),
        *_attention(f"{ours}/mid/attn_1", attention),
        *_res_block(f"{ours}/mid/block_2", block_2, shortcut=False),
        *_norm(f"{ours}/norm_out", f"{theirs}.norm_out"),
        *_conv(f"{ours}/conv_out", f"{theirs}.conv_out"),
    ]


def _res_block(ours: str, theirs: str, shortcut: bool) -> Entries:
    entries = []
    for i in (1, 2):
        entries += _norm(f"{ours}/norm{i}", f"{theirs}.norm{i}")
        entries += _conv(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    return entries + (_conv(f"{ours}/nin_shortcut", f"{theirs}.nin_shortcut") if shortcut else [])


def _attention(ours: str, theirs: str) -> Entries:
    entries = _norm(f"{ours}/norm", f"{theirs}.norm")
    for name in ("q", "k", "v", "proj_out"):
        entries += _conv(f"{ours}/{name}", f"{theirs}.{name}")
    return entries


def hf(config: JanusConfig) -> Table:
    """`JanusForConditionalGeneration` of transformers 5."""
    return Table(
        (
            *_llama("language_model", "model.language_model", "lm_head.weight"),
            *_siglip(config.vision, "vision_model", "model.vision_model.", "projection_layer"),
            *_vq(config.vq, "vqmodel", "model.vqmodel.", _HF_VQ),
            *_linear("aligner/fc1", "model.aligner.fc1"),
            *_linear("aligner/hidden_layers_0", "model.aligner.hidden_layers.0"),
            Entry(("generation_embeddings/embedding",), "model.generation_embeddings.weight"),
            *_linear("generation_aligner/fc1", "model.generation_aligner.fc1"),
            *_linear(
                "generation_aligner/hidden_layers_0", "model.generation_aligner.hidden_layers.0"
            ),
            *_linear("generation_head/proj_out", "model.generation_head.proj_out"),
            *_linear("generation_head/vision_head", "model.generation_head.vision_head"),
        )
    )


def deepseek(config: JanusConfig) -> Table:
    """`MultiModalityCausalLM` of deepseek-ai/Janus. Its pooling head is built but never used."""
    return Table(
        (
            *_llama("language_model", "language_model.model", "language_model.lm_head.weight"),
            *_timm_siglip(config.vision, "vision_model", "vision_model.vision_tower"),
            *_vq(config.vq, "vqmodel", "gen_vision_model.", _LLAMAGEN_VQ),
            *_linear("aligner/fc1", "aligner.layers.0"),
            *_linear("aligner/hidden_layers_0", "aligner.layers.2"),
            Entry(("generation_embeddings/embedding",), "gen_embed.weight"),
            *_linear("generation_aligner/fc1", "gen_aligner.layers.0"),
            *_linear("generation_aligner/hidden_layers_0", "gen_aligner.layers.2"),
            *_linear("generation_head/proj_out", "gen_head.output_mlp_projector"),
            *_linear("generation_head/vision_head", "gen_head.vision_head"),
        ),
        dropped=(
            r"vision_model\.vision_tower\.attn_pool\..*",
            r"gen_vision_model\.quantize\.codebook_used",
            r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        ),
    )


FORMATS = {"hf": hf, "deepseek": deepseek}


def llama_part() -> Table:
    """`LlamaForCausalLM` of transformers: DeepSeek-LLM and the like."""
    return Table(
        tuple(_llama("language_model", "model", "lm_head.weight")),
        dropped=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


def siglip_part(config: SiglipConfig, prefix: str) -> Table:
    """`SiglipModel` or `SiglipVisionModel` of transformers, without text tower and pooling head.

    Args:
      prefix: "vision_model.", or nothing as `SiglipVisionModel` is saved since transformers 5.
    """
    start = re.escape(prefix)
    norm = () if config.features == "post_norm" else (rf"{start}post_layernorm\..*",)
    return Table(
        tuple(_siglip(config, "vision_model", prefix, "out_proj")),
        dropped=(
            rf"{start}head\..*",
            r"text_model\..*",
            r"logit_(scale|bias)",
            r".*\.position_ids",
            *norm,
        ),
    )


def vq_part(config: VQConfig) -> Table:
    """LlamaGen's `VQModel`, as its training saves it."""
    return Table(
        tuple(_vq(config, "vqmodel", "", _LLAMAGEN_VQ)), dropped=(r"quantize\.codebook_used",)
    )
