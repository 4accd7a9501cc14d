"""Tables of MetaQuery's own parts, with the names of facebookresearch/metaquery.

Names were read in `models/model.py`; those of the frozen model are transformers' of its time, of
LLaVA-OneVision and of Qwen2.5-VL, and those that files of these have still.
"""

from unijax.interop.llava_parts import projector, qwen_vision
from unijax.interop.parts import Entries, llama, siglip
from unijax.interop.table import Entry, Transform, linear
from unijax.models.connector import ConnectorConfig
from unijax.systems.metaquery import MetaQueryConfig

HEADS = Transform(lambda x: x.squeeze(-2), lambda x: x[..., None, :])  # [H, 1, d] <-> [H, d]


def connector(config: ConnectorConfig, ours: str, theirs: str) -> Entries:
    """A sequence there: blocks, a linear layer, GELU, a linear layer, a norm.

    `ours` ends with a slash and `theirs` with a dot, or they are empty.
    """
    first = config.order == "enc_proj"
    blocks, into, out = (0, 1, 3) if first else (3, 0, 2)
    block, other = f"{ours}layers", f"{theirs}{blocks}.layers.{{i}}"
    entries = [
        *linear(f"{ours}proj_in", f"{theirs}{into}"),
        *linear(f"{ours}proj_out", f"{theirs}{out}"),
        Entry((f"{ours}norm/scale",), f"{theirs}4.weight"),
    ]
    for name in ("input_layernorm", "post_attention_layernorm"):
        entries.append(Entry((f"{block}/{name}/scale",), f"{other}.{name}.weight"))
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        bias = name != "o_proj"
        entries += linear(f"{block}/self_attn/{name}", f"{other}.self_attn.{name}", bias)
    for name in ("q_norm", "k_norm"):
        path = f"{block}/self_attn/{name}/scale"
        entries.append(Entry((path,), f"{other}.self_attn.{name}.gamma", HEADS))
    for name in ("gate_proj", "up_proj", "down_proj"):
        entries += linear(f"{block}/mlp/{name}", f"{other}.mlp.{name}", bias=False)
    return entries


def backbone(config: MetaQueryConfig, theirs: str) -> Entries:
    """The frozen model, with marks and queries as the last rows of its table; `theirs` ends with a
    dot. There is no head."""
    decoder = f"{theirs}model" if config.merges else f"{theirs}language_model.model"
    table = f"{decoder}.embed_tokens.weight"
    rows = (config.text.vocab_size, 2, config.queries)
    parts = ("language_model/embed_tokens/embedding", "queries/marks", "queries/embedding")
    entries = [Entry(parts, table, rows=rows)]
    for entry in llama(config.text, "language_model", decoder, ""):
        if entry.theirs not in (table, ""):
            entries.append(entry)
    if config.merges:
        return entries + qwen_vision(config.vision, "vision_model", f"{theirs}visual.")
    tower = f"{theirs}vision_tower.vision_model."
    entries += siglip(config.vision, "vision_model", tower, "out_proj")
    return entries + projector(config, theirs)
