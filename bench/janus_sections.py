"""The comparisons: each starts its contenders, checks and times them, and says what it saw."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from bench.janus_case import Case, products
from bench.janus_contender import Contender
from bench.janus_report import Spread, paragraph, ratio, read_speed, table
from unijax.core import tree
from unijax.core.system import init_shapes
from unijax.systems.janus import Janus

Reply = dict[str, Any]
PAUSE = 0.5  # seconds between turns: threads that wait for more work go to sleep


class Contenders(contextlib.ExitStack):
    """Starts processes, and ends them with the section."""

    def __init__(self, case: str, folder: pathlib.Path):
        super().__init__()
        self._case, self._folder = case, str(folder)

    def ours(self, section: str) -> Contender:
        arguments = self._case, self._folder, section
        return self.enter_context(Contender("bench.janus_ours", *arguments))

    def peer(self, section: str) -> Contender:
        return self.enter_context(Contender("bench.janus_peer", self._folder, section))


def in_turns(asks: Mapping[str, Callable[[], Reply]], rounds: int) -> dict[str, list[Reply]]:
    """Replies of each contender, one a round; every other round goes backwards."""
    replies = {name: [] for name in asks}
    for i in range(rounds):
        order = list(asks)
        for name in order if i % 2 == 0 else reversed(order):
            time.sleep(PAUSE)
            replies[name].append(asks[name]())
    return replies


def every(replies: Sequence[Reply], field: str = "seconds") -> list[float]:
    return [reply[field] for reply in replies]


def check_losses(ours: float, theirs: float, tolerance: float = 1e-4) -> float:
    """The relative difference of two losses; raises ValueError where it exceeds the tolerance."""
    difference = abs(ours - theirs) / abs(theirs)
    if difference > tolerance:
        raise ValueError(f"losses differ: {ours} here, {theirs} there")
    return difference


def check_codes(
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    margins: Sequence[Sequence[float]],
) -> int:
    """How many greedy codes are equal; raises ValueError where they part without a near-tie.

    Args:
      margins: between the best two logits at each of `theirs`.
    """
    equal = 0
    for mine, other, margin in zip(ours, theirs, margins, strict=True):
        for a, b, m in zip(mine, other, margin, strict=True):
            if a != b:
                if m > 1e-3:
                    raise ValueError(f"code {a} here, {b} in transformers, by a margin of {m}")
                break  # what follows has other inputs
            equal += 1
    return equal


def dense(case: Case, contenders: Contenders, rounds: int) -> str:
    """A training step on rows without padding, against the matrix products in it."""
    ours, peer = contenders.ours("dense"), contenders.peer("dense")
    asks = {
        "ours": lambda: ours.ask("step"),
        "theirs": lambda: peer.ask("step"),
        "our products": lambda: ours.ask("products"),
        "their products": lambda: peer.ask("products"),
    }
    first = {name: ask() for name, ask in asks.items()}
    difference = check_losses(first["ours"]["losses"][0], first["theirs"]["losses"][0])
    taken = {name: every(replies) for name, replies in in_turns(asks, rounds).items()}
    median = {name: Spread.of(x).median for name, x in taken.items()}
    flops = sum(2 * b * m * k * n * times for b, m, k, n, times in products(case))
    rows = [
        (
            title,
            Spread.of(taken[step]).text(3),
            f"{flops / median[step] / 1e9:.0f}",
            Spread.of(taken[floor]).text(3),
            f"{flops / median[floor] / 1e9:.0f}",
            f"{median[step] / median[floor]:.2f}",
        )
        for title, step, floor in (
            ("transformers", "theirs", "their products"),
            ("unijax", "ours", "our products"),
        )
    ]
    titles = "", "step, s", "GFLOP/s", "its products alone, s", "GFLOP/s", "step / products"
    (b, t), n = case.dense, case.model.vq.num_tokens
    text = paragraph(
        f"{b} rows of {t} tokens without padding: text, the {n} codes of a picture, text.",
        "Forward, backward, clipping, AdamW; both run each head only where it has a target.",
        f"A step has {flops / 1e9:.0f} GFLOP of matrix products, which each framework also runs",
        "alone, as plain products: the floor.",
        f"First losses differ by {difference:.0e} of the loss.",
        f"Compiling took {first['ours']['seconds'] - median['ours']:.0f} s, once.",
    )
    quicker = ratio(taken["theirs"], taken["ours"]).text(2)
    return f"""### Training step on a dense batch

{text}

{table(titles, rows)}

**transformers / unijax, seconds: {quicker}**; the aim is 1.
"""


def recipe(case: Case, contenders: Contenders, rounds: int) -> str:
    """Documents per second on a mixture."""
    plain, sorted_, encoding, ours = (
        "transformers, as they come",
        "transformers, by length",
        "unijax, encoding in the step",
        "unijax",
    )
    processes = {
        plain: contenders.peer("recipe"),
        sorted_: contenders.peer("recipe-by-length"),
        encoding: contenders.ours("recipe-encoding"),
        ours: contenders.ours("recipe-cached"),
    }
    first = {name: p.ask("steps", count=1) for name, p in processes.items()}
    loss = first[plain]["losses"][0]
    difference = max(check_losses(reply["losses"][0], loss) for reply in first.values())
    replies = in_turns(
        {name: lambda p=p: p.ask("steps", count=case.steps) for name, p in processes.items()},
        rounds,
    )
    taken = {name: every(of) for name, of in replies.items()}
    documents = every(replies[ours], "documents")
    assert all(every(of, "documents") == documents for of in replies.values())
    last = abs(replies[ours][-1]["losses"][-1] / replies[plain][-1]["losses"][-1] - 1)
    rows = [
        (
            name,
            Spread.of([n / s for n, s in zip(documents, taken[name])]).text(2),
            f"{Spread.of(every(of, 'padding')).median:.0%}",
            ratio(taken[plain], taken[name]).text(2),
            ratio(taken[sorted_], taken[name]).text(2),
        )
        for name, of in replies.items()
    ]
    titles = "", "documents/s", "padding", "over as they come", "over by length"
    compiled = first[ours]["seconds"] - Spread.of(taken[ours]).median / case.steps
    about = paragraph(
        "The recipe of Janus-Pro's stage 2 on the shipped data: und : text : gen as 2 : 3 : 5, to",
        "understand captions, questions and interleaved pages in equal parts. Decoder, adaptors",
        "and heads train, encoders are frozen. In every step both sides see the same documents,",
        f"{sum(documents) / len(documents) / case.steps:.0f} on average.",
    )
    theirs = paragraph(
        "transformers: tokenised texts and decoded pictures lie ready in memory; batches of 8",
        "documents (its Trainer's default) are padded to their longest, their gradients added up;",
        "both heads run everywhere; pictures are encoded in the step. *By length*: documents of",
        f"a step are sorted first. unijax: its whole loader, {case.rows} packed rows of",
        f"{case.row_length}; each head runs where it has a target; features and codes are cached.",
    )
    checks = paragraph(
        f"Losses of the first step differ by {difference:.0e} of the loss at most, after",
        f"{1 + rounds * case.steps} steps by {last:.0e}. Reading all sources and filling the cache",
        f"took {first[ours]['ahead']:.0f} s, compiling {compiled:.0f} s, once.",
    )
    return f"""### Documents per second

{about}

{theirs}

{checks}

{table(titles, rows)}

**unijax / transformers, documents per second: {rows[-1][3]}**; the aim is 1.5.
"""


def drawing_parameters(case: Case) -> dict[str, int]:
    """Numbers of what every step of drawing reads: layers, image head and image aligner."""
    shapes = tree.flatten(nn.unbox(init_shapes(Janus(case.model))))
    read = "language_model/layers", "generation_head", "generation_aligner"
    return {path: x.size for path, x in shapes.items() if path.startswith(read)}


def draw(case: Case, contenders: Contenders, rounds: int) -> str:
    """Pictures with guidance."""
    size = 4 * sum(drawing_parameters(case).values())
    speed = read_speed(size)  # before anything else runs
    ours, peer = contenders.ours("draw"), contenders.peer("draw")
    n, rows, checks = case.model.vq.num_tokens, [], []
    for count in case.drawn:
        asks = {
            "theirs": lambda count=count: peer.ask("pictures", count=count),
            "ours": lambda count=count: ours.ask("pictures", count=count),
        }
        first = {name: ask() for name, ask in asks.items()}
        codes = first["theirs"]["codes"]
        margins = peer.ask("margins", codes=codes)["margins"]
        equal = check_codes(first["ours"]["codes"], codes, margins)
        replies = in_turns(asks, rounds)
        drawing = {name: every(of) for name, of in replies.items()}
        pixels = {name: every(of, "pixels_seconds") for name, of in replies.items()}
        whole = {name: [a + b for a, b in zip(drawing[name], pixels[name])] for name in replies}
        for title, times in (("codes", drawing), ("codes and pixels", whole)):
            spreads = (Spread.of(times[name]).text(3) for name in ("theirs", "ours"))
            quicker = ratio(times["theirs"], times["ours"]).text(2)
            share = f"{n * size / Spread.of(times['ours']).median / speed:.0%}"
            rows.append((f"{count}", title, *spreads, f"**{quicker}**", share))
        compiled = first["ours"]["seconds"] - Spread.of(drawing["ours"]).median
        checks.append(
            f"Batch {count}: {equal} of {count * n} greedy codes are equal, "
            f"{len({c for row in codes for c in row})} of them distinct; "
            f"compiling took {compiled:.0f} s."
        )
    titles = "batch", "", "transformers, s", "unijax, s", "transformers / unijax", "of reading"
    text = paragraph(
        'transformers\' `generate(generation_mode="image")` and our `Sampler.made`:',
        f"{n} codes a picture, guidance 5, greedy, warm.",
        *checks,
        f"*Of reading*: a step reads the {size / 4e6:.1f}M parameters that draw, which the cores",
        f"do at {speed / 1e9:.1f} GB/s alone; the share of our time that this takes.",
    )
    return f"""### Drawing with guidance

{text}

{table(titles, rows)}

The aim is 3.
"""


SECTIONS = {"dense": dense, "recipe": recipe, "draw": draw}
