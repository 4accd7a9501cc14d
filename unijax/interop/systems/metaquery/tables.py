"""Table of MetaQuery's frozen model, with the names of facebookresearch/metaquery.

They are transformers' of its time, of LLaVA-OneVision and of Qwen2.5-VL, and those that files of
these have still.
"""

from unijax.interop.llava_parts import projector, qwen_vision
from unijax.interop.parts import Entries, llama, siglip
from unijax.interop.table import Entry
from unijax.systems.metaquery import MetaQueryConfig


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
    return entries + projector(config.newline, theirs)
