"""CLIP in transformers, and as OpenAI and open_clip name it: both towers, and where they meet.

Names were read in transformers 5 (`modeling_clip.py`) and open_clip 3.3 (`transformer.py`,
`model.py`), whose text tower EVA-CLIP's release has too (`EVA-CLIP/rei/eva_clip/transformer.py`).
"""

from unijax.interop.table import LINEAR, PATCHES, Entry, Table, linear, norm
from unijax.models.clip import ClipVisionConfig

DROPPED = (r".*\.position_ids", r"(.*\.)?attn_mask")  # constants that older releases saved
SCALE = Entry(("similarity/scale",), "logit_scale")
_QKV = ("q_proj", "k_proj", "v_proj")


def hf_text(theirs: str = "text_model.") -> list[Entry]:
    """A text tower; `theirs` is empty where transformers 5 saved it alone."""
    embeddings = f"{theirs}embeddings"
    return [
        Entry(("text_model/token_embedding/embedding",), f"{embeddings}.token_embedding.weight"),
        Entry(
            ("text_model/position_embedding/embedding",), f"{embeddings}.position_embedding.weight"
        ),
        *_hf_blocks("text_model/encoder/layers", f"{theirs}encoder.layers.{{i}}"),
        *norm("text_model/final_layer_norm", f"{theirs}final_layer_norm"),
    ]


def hf_vision(config: ClipVisionConfig, theirs: str = "vision_model.") -> list[Entry]:
    """A vision tower; `theirs` is empty where transformers 5 saved it alone."""
    ours, embeddings = "vision_model/embeddings", f"{theirs}embeddings"
    return [
        Entry((f"{ours}/class_embedding",), f"{embeddings}.class_embedding"),
        Entry((f"{ours}/position_embedding/embedding",), f"{embeddings}.position_embedding.weight"),
        Entry((f"{ours}/patch_embedding/kernel",), f"{embeddings}.patch_embedding.weight", PATCHES),
        *norm("vision_model/pre_layrnorm", f"{theirs}pre_layrnorm"),
        *_hf_blocks("vision_model/encoder/layers", f"{theirs}encoder.layers.{{i}}"),
        *_last_norm(config, f"{theirs}post_layernorm"),
    ]


def openai_text(theirs: str = "text.") -> list[Entry]:
    """A text tower with its projection; `theirs` is empty in OpenAI's CLIP."""
    return [
        Entry(("text_model/token_embedding/embedding",), f"{theirs}token_embedding.weight"),
        Entry(("text_model/position_embedding/embedding",), f"{theirs}positional_embedding"),
        *_openai_blocks("text_model/encoder/layers", f"{theirs}transformer.resblocks.{{i}}"),
        *norm("text_model/final_layer_norm", f"{theirs}ln_final"),
        Entry(("text_projection/kernel",), f"{theirs}text_projection"),  # stored inputs first
    ]


def openai_vision(config: ClipVisionConfig) -> list[Entry]:
    """A vision tower with its projection."""
    ours = "vision_model/embeddings"
    return [
        Entry((f"{ours}/class_embedding",), "visual.class_embedding"),
        Entry((f"{ours}/position_embedding/embedding",), "visual.positional_embedding"),
        Entry((f"{ours}/patch_embedding/kernel",), "visual.conv1.weight", PATCHES),
        *norm("vision_model/pre_layrnorm", "visual.ln_pre"),
        *_openai_blocks("vision_model/encoder/layers", "visual.transformer.resblocks.{i}"),
        *_last_norm(config, "visual.ln_post"),
        Entry(("vision_projection/kernel",), "visual.proj"),  # stored inputs first
    ]


def hf(config: ClipVisionConfig) -> Table:
    """`CLIPModel` of transformers."""
    heads = [
        *linear("vision_projection", "visual_projection", bias=False),
        *linear("text_projection", "text_projection", bias=False),
    ]
    return Table((*hf_vision(config), *hf_text(), *heads, SCALE), DROPPED)


def openai(config: ClipVisionConfig) -> Table:
    """`CLIP` of OpenAI and open_clip."""
    return Table((*openai_vision(config), *openai_text(""), SCALE), DROPPED)


def _hf_blocks(layer: str, block: str) -> list[Entry]:
    entries = linear(f"{layer}/self_attn/projection_layer", f"{block}.self_attn.out_proj")
    for name in _QKV:
        entries += linear(f"{layer}/self_attn/{name}", f"{block}.self_attn.{name}")
    for i in (1, 2):
        entries += norm(f"{layer}/layer_norm{i}", f"{block}.layer_norm{i}")
        entries += linear(f"{layer}/mlp/fc{i}", f"{block}.mlp.fc{i}")
    return entries


def _openai_blocks(layer: str, block: str) -> list[Entry]:
    """Queries, keys and values are one matrix of rows."""
    qkv = [f"{layer}/self_attn/{name}" for name in _QKV]
    return [
        Entry(tuple(f"{p}/kernel" for p in qkv), f"{block}.attn.in_proj_weight", LINEAR),
        Entry(tuple(f"{p}/bias" for p in qkv), f"{block}.attn.in_proj_bias"),
        *linear(f"{layer}/self_attn/projection_layer", f"{block}.attn.out_proj"),
        *linear(f"{layer}/mlp/fc1", f"{block}.mlp.c_fc"),
        *linear(f"{layer}/mlp/fc2", f"{block}.mlp.c_proj"),
        *norm(f"{layer}/layer_norm1", f"{block}.ln_1"),
        *norm(f"{layer}/layer_norm2", f"{block}.ln_2"),
    ]


def _last_norm(config: ClipVisionConfig, theirs: str) -> list[Entry]:
    return norm("vision_model/post_layernorm", theirs) if config.features == "post_norm" else []
