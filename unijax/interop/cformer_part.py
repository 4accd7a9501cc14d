"""Names of Emu's CFormer: transformers' `T5Stack` of a decoder, and what stands beside it.

Read in transformers 5 (`modeling_t5.py`) and in baaivision/Emu (`models/causal_former.py`).
"""

from unijax.interop.table import LEADING_ONE, Entry, linear


def entries(ours: str, theirs: str) -> list[Entry]:
    """Of a CFormer; what paths and names begin with ends with its separator or is empty."""
    layer, block = f"{ours}layers", f"{theirs}cformer.block.{{i}}.layer"
    bias = f"{theirs}cformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = [
        Entry((f"{ours}queries",), f"{theirs}causal_tokens", LEADING_ONE),
        Entry((f"{ours}relative_attention_bias",), bias),
        Entry((f"{ours}final_layer_norm/scale",), f"{theirs}cformer.final_layer_norm.weight"),
        *linear(f"{ours}projection", f"{theirs}projection"),
    ]
    for i in range(3):
        found.append(Entry((f"{layer}/layer_norm_{i}/scale",), f"{block}.{i}.layer_norm.weight"))
    for i, (own, name) in enumerate(
        (("self_attn", "SelfAttention"), ("cross_attn", "EncDecAttention"))
    ):
        for leaf in "qkvo":
            found += linear(f"{layer}/{own}/{leaf}", f"{block}.{i}.{name}.{leaf}", bias=False)
    for leaf in ("wi", "wo"):
        found += linear(f"{layer}/mlp/{leaf}", f"{block}.2.DenseReluDense.{leaf}", bias=False)
    return found
