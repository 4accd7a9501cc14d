"""Tables of the networks that several systems are made of: Llama, SigLIP, VQ image tokenizers.

Names were read in transformers 5 (`modeling_llama.py`, `modeling_siglip.py`), in timm
(`vision_transformer.py`), in CompVis/taming-transformers (`modules/diffusionmodules/model.py`) and
in FoundationVision/LlamaGen (`tokenizer_image/vq_model.py`).
"""

import dataclasses
import re

from unijax.interop.table import CONV, LEADING_ONE, LINEAR, PATCHES, Entry, Table, linear, norm
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.models.towers import NAMES, ReaderConfig, TowerConfig
from unijax.models.vqgan import VQConfig

Entries = list[Entry]


def conv(ours: str, theirs: str) -> Entries:
    return [
        Entry((f"{ours}/kernel",), f"{theirs}.weight", CONV),
        Entry((f"{ours}/bias",), f"{theirs}.bias"),
    ]


def llama(config: LlamaConfig, ours: str, model: str, lm_head: str) -> Entries:
    """A decoder with transformers' names; `model` is the prefix of what is not the head."""
    layer, theirs = f"{ours}/layers", f"{model}.layers.{{i}}"
    entries = [
        Entry((f"{ours}/embed_tokens/embedding",), f"{model}.embed_tokens.weight"),
        Entry((f"{ours}/norm/scale",), f"{model}.norm.weight"),
    ]
    if not config.tie_word_embeddings:
        entries.append(Entry((f"{ours}/lm_head/kernel",), lm_head, LINEAR))
    for name in ("input_layernorm", "post_attention_layernorm"):
        entries.append(Entry((f"{layer}/{name}/scale",), f"{theirs}.{name}.weight"))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        bias = config.qkv_bias and name != "o_proj"
        entries += linear(f"{layer}/self_attn/{name}", f"{theirs}.self_attn.{name}", bias)
    for name in ("q_norm", "k_norm"):
        path, of_heads = f"{layer}/self_attn/{name}", f"{theirs}.self_attn.{name}"
        if config.qk_norm == "layer_norm":
            entries += norm(path, of_heads)
        if config.qk_norm == "rms_norm":
            entries.append(Entry((f"{path}/scale",), f"{of_heads}.weight"))
    for name in ("gate_proj", "up_proj", "down_proj"):
        entries += linear(f"{layer}/mlp/{name}", f"{theirs}.mlp.{name}", bias=False)
    return entries


def siglip(config: SiglipConfig, ours: str, theirs: str, attention_out: str) -> Entries:
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
    for name in ("layer_norm1", "layer_norm2"):
        entries += norm(f"{layer}/{name}", f"{block}.{name}")
    for name in ("q_proj", "k_proj", "v_proj"):
        entries += linear(f"{layer}/self_attn/{name}", f"{block}.self_attn.{name}")
    entries += linear(f"{layer}/self_attn/projection_layer", f"{block}.self_attn.{attention_out}")
    for name in ("fc1", "fc2"):
        entries += linear(f"{layer}/mlp/{name}", f"{block}.mlp.{name}")
    if config.features == "post_norm":
        entries += norm(f"{ours}/post_layernorm", f"{theirs}post_layernorm")
    return entries


def timm_siglip(config: SiglipConfig, ours: str, theirs: str) -> Entries:
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
    entries += linear(f"{layer}/self_attn/projection_layer", f"{block}.attn.proj")
    for i in (1, 2):
        entries += norm(f"{layer}/layer_norm{i}", f"{block}.norm{i}")
        entries += linear(f"{layer}/mlp/fc{i}", f"{block}.mlp.fc{i}")
    if config.features == "post_norm":
        entries += norm(f"{ours}/post_layernorm", f"{theirs}.norm")
    return entries


@dataclasses.dataclass(frozen=True)
class VQWords:
    """What a dialect calls things. The levels of the decoder go from the coarsest to the finest on
    our side, and on the other where `coarsest_first`."""

    down: str
    up: str
    block: str
    mid: tuple[str, str, str]
    coarsest_first: bool = True


HF_VQ = VQWords("encoder.down", "decoder.up", "block", ("block_1", "attn_1", "block_2"))
TAMING_VQ = dataclasses.replace(HF_VQ, coarsest_first=False)
LLAMAGEN_VQ = VQWords("encoder.conv_blocks", "decoder.conv_blocks", "res", ("0", "1", "2"))


def vq(config: VQConfig, ours: str, theirs: str, words: VQWords) -> Entries:
    """`theirs` ends with a dot or is empty."""
    entries = [Entry((f"{ours}/quantize/embedding",), f"{theirs}quantize.embedding.weight")]
    for name in ("quant_conv", "post_quant_conv"):
        entries += conv(f"{ours}/{name}", f"{theirs}{name}")
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
            flip = name == "up" and not words.coarsest_first
            number = len(order) - 1 - level if flip else level
            path, prefix = (
                f"{ours}/{side}/{name}_{level}",
                f"{theirs}{getattr(words, name)}.{number}",
            )
            coarsest = level == (0 if name == "up" else len(order) - 1)
            for i in range(blocks):
                block = f"{prefix}.{words.block}.{i}"
                entries += _res_block(f"{path}/block_{i}", block, shortcut=channels != out)
                channels = out
                if coarsest and config.coarse_attention:
                    entries += _attention(f"{path}/attn_{i}", f"{prefix}.attn.{i}")
            if level < len(order) - 1:
                entries += conv(f"{path}/{resample}/conv", f"{prefix}.{resample}.conv")
    return entries


def _vq_half(ours: str, theirs: str, words: VQWords) -> Entries:
    """What encoder and decoder share: the ends and the middle."""
    block_1, attention, block_2 = (f"{theirs}.mid.{word}" for word in words.mid)
    return [
        *conv(f"{ours}/conv_in", f"{theirs}.conv_in"),
        *_res_block(f"{ours}/mid/block_1", block_1, shortcut=False),
        *_attention(f"{ours}/mid/attn_1", attention),
        *_res_block(f"{ours}/mid/block_2", block_2, shortcut=False),
        *norm(f"{ours}/norm_out", f"{theirs}.norm_out"),
        *conv(f"{ours}/conv_out", f"{theirs}.conv_out"),
    ]


def _res_block(ours: str, theirs: str, shortcut: bool) -> Entries:
    entries = []
    for i in (1, 2):
        entries += norm(f"{ours}/norm{i}", f"{theirs}.norm{i}")
        entries += conv(f"{ours}/conv{i}", f"{theirs}.conv{i}")
    return entries + (conv(f"{ours}/nin_shortcut", f"{theirs}.nin_shortcut") if shortcut else [])


def _attention(ours: str, theirs: str) -> Entries:
    entries = norm(f"{ours}/norm", f"{theirs}.norm")
    for name in ("q", "k", "v", "proj_out"):
        entries += conv(f"{ours}/{name}", f"{theirs}.{name}")
    return entries


def llama_part(config: LlamaConfig) -> Table:
    """`LlamaForCausalLM` of transformers: DeepSeek-LLM and the like."""
    return Table(
        tuple(llama(config, "language_model", "model", "lm_head.weight")),
        dropped=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


def siglip_part(config: SiglipConfig, prefix: str) -> Table:
    """`SiglipModel` or `SiglipVisionModel` of transformers, without text tower and pooling head.

    Args:
      prefix: "vision_model.", or nothing as `SiglipVisionModel` is saved since transformers 5.
    """
    start = re.escape(prefix)
    last = () if config.features == "post_norm" else (rf"{start}post_layernorm\..*",)
    return Table(
        tuple(siglip(config, "vision_model", prefix, "out_proj")),
        dropped=(
            rf"{start}head\..*",
            r"text_model\..*",
            r"logit_(scale|bias)",
            r".*\.position_ids",
            *last,
        ),
    )


def vq_part(config: VQConfig) -> Table:
    """LlamaGen's `VQModel`, as its training saves it."""
    return Table(
        tuple(vq(config, "vqmodel", "", LLAMAGEN_VQ)), dropped=(r"quantize\.codebook_used",)
    )


def llama_size(config: LlamaConfig) -> dict[str, str]:
    """A decoder's row of the table in a model card."""
    size = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    return {"decoder": f"{size}, {config.vocab_size:,} rows of the vocabulary"}


def tower_size(config: ReaderConfig) -> dict[str, str]:
    """A tower's."""
    return {
        "tower": f"{NAMES[config.kind]}, {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}, pictures of {config.image_size} px in {config.num_tokens} tokens",
    }


def vq_size(config: VQConfig) -> dict[str, str]:
    """An image tokenizer's."""
    pictures = f"pictures of {config.image_size} px in {config.num_tokens} codes"
    return {"image tokenizer": f"VQ, {config.num_embeddings:,} codes, {pictures}"}


def llama_widths(config: LlamaConfig) -> dict[str, int]:
    """Sizes that some tensor of a decoder has along an axis."""
    heads = {"num_attention_heads": config.num_attention_heads}
    heads["num_key_value_heads"] = config.num_key_value_heads
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        **{f"{name} * head_dim": count * config.head_dim for name, count in heads.items()},
    }


def tower_widths(config: TowerConfig) -> dict[str, int]:
    """The same of a tower."""
    return {
        "hidden_size of the tower": config.hidden_size,
        "intermediate_size of the tower": config.intermediate_size,
        "patches of a picture": config.num_tokens,
    }


def vq_widths(config: VQConfig) -> dict[str, int]:
    """The same of an image tokenizer."""
    return {
        "latent_channels": config.latent_channels,
        "channels of the image tokenizer": max(config.level_channels),
        "num_embeddings": config.num_embeddings,
        "embed_dim": config.embed_dim,
    }
