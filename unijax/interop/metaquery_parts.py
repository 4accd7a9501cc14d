"""Table of MetaQuery's connector, named as in facebookresearch/metaquery (`models/model.py`)."""

from unijax.interop.parts import Entries
from unijax.interop.table import Entry, Transform, linear
from unijax.models.connector import ConnectorConfig

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
