"""What may have made a part of a table depart from the law of the rest, in words.

A departure seldom has one possible cause: a factor of 1.08 on the losses of the large models is
what another tokenizer does, or untuned rates. Those that its size, its sign and the place of its
runs allow are named, the likelier first.
"""

import re

import numpy as np

from unijax.scaling.alternatives import Alternative
from unijax.scaling.departures import CONVERSIONS
from unijax.scaling.groups import OTHER_END

CAUSES = {
    "units": "another unit",
    "tokenizer": "another tokenizer or held-out set",
    "version": "another version of the code or of the data",
    "decay": "runs cut before their learning rate had decayed",
    "rates": "learning rates that are not tuned for these sizes",
    "repeated": "tokens seen again and counted as new",
    "mislabelled": "mislabelled rows, of another size or length than they say",
    "diverged": "runs that diverged",
    "copied": "rows that were copied",
    "noise": "runs that scatter more than the rest",
}
BYTES = 0.6  # of the log of a factor: beyond it no tokenizer, but bytes, characters, base ten
TOKENIZERS = 0.04  # below it hardly another tokenizer
VERSIONS = 0.17  # beyond it hardly another version of the code
DECAYS = 0.14  # beyond it hardly the gain of a decay
RATES = 0.30  # beyond it hardly a learning rate
FEW = 0.6  # of the runs: if more depart more and more, it is the law that is curved
SEEN_AGAIN = 0.15  # beyond it hardly repeated data, as long as it is not seen a hundred times
COLUMNS = (  # what a column speaks of that tells the runs apart
    (r"version|commit|code|branch|release|sha|git", "version"),
    (r"token|vocab|bpe", "tokenizer"),
    (r"eval|valid|held|split|dataset|data|corpus", "tokenizer"),
    (r"decay|schedul|cooldown|anneal|stage|state", "decay"),
    (r"rate|lr|warm|optim|batch", "rates"),
    (r"epoch|repeat|unique|pass", "repeated"),
    (r"unit", "units"),
)


def unit(one: Alternative) -> str:
    """Which conversion a factor on losses is; empty for none."""
    size = abs(one.step)
    near = max(4 * one.error, 0.012)
    for conversion, name in zip(CONVERSIONS, ("bits", "logarithms to the base of ten")):
        if abs(size - conversion) < near:
            return name
    return "per byte or per character, or to another base" if size > BYTES else ""


def named(one: Alternative) -> tuple[str, ...]:
    """Keys of `CAUSES`, the likelier first."""
    if one.kind in ("pool", "noise"):
        return ({"pool": "repeated"}.get(one.kind, one.kind),)
    if one.kind == "exchanged":
        return ("mislabelled",)
    if one.kind == "rows":
        return ("mislabelled", "diverged")
    if one.kind == "perplexity":
        return ("units",)
    if one.kind == "parameters":
        return ("mislabelled", "units")
    if one.kind == "tokens":
        worth_less = (one.part.end, one.step > 0) in (("low", True), ("high", False))
        return ("units", "mislabelled", "repeated") if worth_less else ("units", "mislabelled")
    losses = _of_losses(one)
    return (*losses, "noise") if one.kind == "loose" and one.scatter > abs(one.step) / 2 else losses


def _of_losses(one: Alternative) -> tuple[str, ...]:
    part = one.part
    above = part.end if one.step > 0 else OTHER_END[part.end]  # where the worse runs lie
    size = abs(one.step)
    if not part.ramp and unit(one):
        return ("units",)
    column = next((cause for words, cause in COLUMNS if re.search(words, part.by)), "")
    found = [column] if column and part.by not in ("parameters", "tokens", "compute") else []
    if found:
        return tuple(found)
    rising = part.ramp and part.end == above  # worse and worse, up to that end
    if part.by == "parameters" and above == "high" and (rising or (not part.ramp and size < RATES)):
        found.append("rates")
    few = rising and (part.profile > 0).mean() < FEW
    if part.by == "tokens" and above == "high" and (few or (not part.ramp and size < SEEN_AGAIN)):
        found.append("repeated")
    if part.by == "longest" and above == "low" and size < DECAYS:  # the others are its checkpoints
        return ("decay",)
    if part.ramp:
        return tuple(found)
    if size < VERSIONS:
        found.append("version")
    if size < DECAYS:
        found.append("decay")
    if size > TOKENIZERS:
        found.insert(0 if size > DECAYS else len(found), "tokenizer")
    return tuple(found)


def said(one: Alternative, runs: str) -> str:
    """What is odd, and what to look for.

    Args:
      runs: which they are, with some ids.
    """
    factor = float(np.exp(one.step))
    look = _look(named(one))
    if one.kind == "pool":
        return ""
    if one.kind == "noise":
        return (
            f"{runs} scatter {one.scatter / one.scale:.2g} times as much as the others "
            f"({one.scatter:.1%} against {one.scale:.2%}): the law is as good as theirs alone; "
            "look at what differs there (seeds, batch size, divergence, held-out rows)"
        )
    if one.kind == "exchanged":
        return f"{runs} look mislabelled: exchanged for each other, they follow the law of the rest"
    if one.kind == "rows":
        return f"{runs} lie far off the law of the others: {look}"
    if one.kind in ("parameters", "tokens"):
        return (
            f"{runs} follow the law of the others with {factor:.3g} times their {one.kind}: look "
            f"for {one.kind} counted otherwise (thousands, bytes, sequences, with embeddings), or "
            f"for {CAUSES['mislabelled']}"
        )
    if one.kind == "perplexity":
        return f"{runs} look given as perplexities: their logarithms follow the law of the others"
    direction = "above" if one.step > 0 else "below"
    by = f"{abs(np.expm1(one.step)):.1%}"
    if one.part.ramp:
        return f"{runs} lie more and more {direction} the law of the others, up to {by}: {look}"
    if name := unit(one):
        if name != "bits":
            return (
                f"{runs} look given in another unit than the others ({name}): their losses are "
                f"{factor:.3g} times the law of the others"
            )
        these, others = ("bits", "nats") if one.step > 0 else ("nats", "bits")
        return (
            f"{runs} look given in {these} and the others in {others}: their losses are "
            f"{factor:.3f} times the law of the others (bits are {1 / np.log(2):.3f} times nats)"
        )
    return f"{runs} lie {by} {direction} the law of the others: {look}"


def _look(causes: tuple[str, ...]) -> str:
    if not causes:
        return "the law's form may not hold over all of these runs"
    words = [CAUSES[c] for c in causes]
    return "look for " + (", ".join(words[:-1]) + " or " + words[-1] if words[1:] else words[0])
