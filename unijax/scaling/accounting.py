"""Parameters by group and FLOPs per token by modality, as they enter scaling laws.

FLOPs are those of matrix products, 2 per multiply-add. A token that trains costs three times its
forward pass; a frozen tower's costs one. Attention counts the pairs that are visible: in a causal
document of T tokens (T + 1) / 2 keys per query, not T. Norms, activations and the softmax are left
out: they are what the compiled model has more (`tests/scaling/test_ladder.py`).
"""

import dataclasses

from unijax.models.llama import LlamaConfig
from unijax.scaling.ladder import ImageLayers, Rung
from unijax.systems.janus import JanusConfig


@dataclasses.dataclass(frozen=True)
class Account:
    """Of one model.

    Attributes:
      parameters: counts by group: embedding, decoder, adaptors, heads, towers.
      forward: FLOPs per token by modality and part: decoder, attention, adaptor, head, tower.
      context: tokens of a document, for attention.
    """

    parameters: dict[str, int]
    forward: dict[str, dict[str, float]]
    context: int

    @property
    def trained(self) -> int:
        """All but the frozen towers."""
        return sum(n for group, n in self.parameters.items() if group != "towers")

    @property
    def non_embedding(self) -> int:
        """The decoder's layers and norms: N of Kaplan et al. (arXiv 2001.08361)."""
        return self.parameters["decoder"]

    def training(self, modality: str, head: bool = True, attention: bool = True) -> float:
        """Training FLOPs per token: 3 x forward of what trains, 1 x of a frozen tower."""
        left_out = {name for name, in_ in (("head", head), ("attention", attention)) if not in_}
        parts = self.forward[modality].items()
        return sum((1 if k == "tower" else 3) * v for k, v in parts if k not in left_out)


def account(rung: Rung, context: int) -> Account:
    """Of a rung, with documents of `context` tokens."""
    if isinstance(rung.system, JanusConfig):
        return _janus(rung.system, context)
    return _transfusion(rung.text, rung.system, context)


def _decoder(text: LlamaConfig, context: int) -> dict[str, float]:
    return {
        "decoder": float(text.flops_per_token()),
        "attention": text.flops_per_pair() * (context + 1) / 2,
    }


def _janus(c: JanusConfig, context: int) -> Account:
    text, d, v = c.text.count_parameters(), c.text.hidden_size, c.vision.hidden_size
    k, e = c.vq.num_embeddings, c.vq.embed_dim
    parameters = {
        "embedding": text["embed_tokens"] + k * e,
        "decoder": text["layers"],
        "adaptors": (v + 1) * d + (e + 1) * d + 2 * (d + 1) * d,
        "heads": text["lm_head"] + (d + 1) * d + (d + 1) * k,
        "towers": c.vision.count_parameters() + c.vq.count_parameters(),
    }
    shared = _decoder(c.text, context)
    forward = {
        "text": shared | {"head": 2.0 * d * c.text.vocab_size},
        "understanding": shared
        | {
            "adaptor": 2.0 * (v + d) * d,
            "tower": c.vision.flops_per_image() / c.vision.num_tokens,
        },
        "image codes": shared
        | {
            "adaptor": 2.0 * (e + d) * d,
            "head": 2.0 * (d + k) * d,
            "tower": c.vq.encode_flops_per_image() / c.vq.num_tokens,
        },
    }
    return Account(parameters, forward, context)


def _transfusion(text: LlamaConfig, images: ImageLayers, context: int) -> Account:
    counts, d = text.count_parameters(), text.hidden_size
    shared = _decoder(text, context)
    into, out = images.flops_per_token(d)
    return Account(
        {
            "embedding": counts["embed_tokens"],
            "decoder": counts["layers"],
            "adaptors": images.count_parameters(d),
            "heads": counts["lm_head"],
            "towers": 0,
        },
        {
            "text": shared | {"head": 2.0 * d * text.vocab_size},
            "patches": shared | {"adaptor": float(into), "head": float(out)},
        },
        context,
    )


def describe(rungs: list[Rung], context: int) -> str:
    """The ladder as text: the arithmetic, the parameters, and FLOPs per token beside 6 N."""
    lines = []
    for rung in rungs:
        found = account(rung, context)
        lines.append(f"{rung.name}  width {rung.text.hidden_size}: {rung.arithmetic}")
        groups = "  ".join(f"{g} {n:,}" for g, n in found.parameters.items() if n)
        lines.append(f"  parameters: {groups}")
        lines.append(
            f"  non-embedding {found.non_embedding:,}; trained {found.trained:,}; "
            f"all {sum(found.parameters.values()):,}"
        )
        lines.append(
            f"  {'training FLOPs per token':26}{'products':>12}{'+ attention':>13}{'+ head':>12}"
            f"{'+ tower':>12}{'/ 6 N decoder':>15}{'/ 6 N trained':>15}"
        )
        for modality, parts in found.forward.items():
            products = found.training(modality, head=False, attention=False) - parts.get("tower", 0)
            attention = products + 3 * parts["attention"]
            head = attention + 3 * parts.get("head", 0)
            whole = found.training(modality)
            lines.append(
                f"  {modality:26}{products:12.4g}{attention:13.4g}{head:12.4g}{whole:12.4g}"
                f"{head / (6 * found.non_embedding):15.3f}{head / (6 * found.trained):15.3f}"
            )
        lines.append("")
    lines.append(
        f"Attention over documents of {context:,} tokens; a frozen tower runs forward only."
    )
    return "\n".join(lines)
