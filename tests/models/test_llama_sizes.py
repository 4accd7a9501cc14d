"""Named sizes of the decoder: counts as published, and what no decoder has."""

import dataclasses

import pytest
import torch
import transformers

from tests.models.test_llama import SMALL, shapes
from unijax.core.errors import UserError
from unijax.core.tree import flatten
from unijax.models.llama import SIZES, Llama

# Without the head, and the head; from the specifications and the released checkpoints' indices.
COUNTS = {
    "deepseek_1b": (1_442_940_928, 209_715_200),
    "deepseek_7b": (6_490_935_296, 419_430_400),
    "llama_13b": (12_852_024_320, 163_840_000),
    "llama2_7b": (6_607_343_616, 131_072_000),
    "llama3_8b": (7_504_924_672, 525_336_576),
    "llama3.1_8b": (7_504_924_672, 525_336_576),
    "qwen2_0.5b": (494_032_768, 0),
    "qwen2.5_3b": (3_085_938_688, 0),
    "qwen2.5_7b": (7_070_619_136, 544_997_376),
}
# Table 2 of Transfusion, with embedding and head of 32,000 ids: two more of either are ours.
TRANSFUSION = {"0.16b": 162.4, "0.37b": 373.9, "0.76b": 777.9, "1.4b": 1364.3, "7b": 6738.4}


@pytest.mark.parametrize("size", SIZES)
def test_counts(size):
    """By arithmetic, by the shapes, and as published."""
    config = SIZES[size]
    counts = config.count_parameters()
    count = lambda *names: sum(  # noqa: E731
        p.size
        for path, p in flatten(shapes(Llama(config))["params"]).items()
        if path.split("/")[0] in names
    )
    assert count("embed_tokens") == counts["embed_tokens"]
    assert count("layers", "norm") == counts["layers"]
    assert count("lm_head") == counts["lm_head"]
    if size in COUNTS:
        body, head = COUNTS[size]
        assert (counts["embed_tokens"] + counts["layers"], counts["lm_head"]) == (body, head)
    if size.startswith("transfusion"):
        total = sum(counts.values()) - 2 * 2 * config.hidden_size
        assert round(total / 1e6, 1) == TRANSFUSION[size.removeprefix("transfusion_")]


def test_counts_of_chameleon_are_those_of_transformers():
    for size, post in (("chameleon_7b", False), ("chameleon_34b", True)):
        c = SIZES[size]
        config = transformers.ChameleonConfig(
            vocab_size=c.vocab_size, hidden_size=c.hidden_size, swin_norm=post,
            intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers,
            num_attention_heads=c.num_attention_heads,
            num_key_value_heads=c.num_key_value_heads, vocabulary_map={"<image>": 8711},
        )  # fmt: skip
        with torch.device("meta"):
            model = transformers.ChameleonForConditionalGeneration(config)
        want = sum(p.numel() for name, p in model.named_parameters() if "vqmodel" not in name)
        assert sum(c.count_parameters().values()) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads: found 3; expected a divisor of"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "num_attention_heads: found 5;"),
        ({"head_dim": 7}, "head_dim: found 7; expected an even number"),
        (
            {"mrope_section": (1, 2)},
            r"mrope_section: found \(1, 2\); expected numbers whose sum is",
        ),
        ({"qk_norm": "rms"}, "qk_norm: found 'rms'; expected one of"),
        ({"norm_order": "swin"}, "norm_order: found 'swin'; expected one of"),
        ({"dropout": 1.0}, "dropout: found 1.0; expected a share"),
    ],
)
def test_what_no_decoder_has(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)
