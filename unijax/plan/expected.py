"""What a step's rows hold. That is data, of which a plan has none: assumed here."""

import dataclasses

from unijax.core import cost
from unijax.core.batch import Target
from unijax.core.system import RowSystem
from unijax.data.config import DataConfig
from unijax.data.tasks import may_show

# Tokens of text of a document beside its image, and how many of them are answers, by what it shows.
TEXT = {"und": (192, 128), "text": (640, 640), "gen": (64, 0)}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Amounts of every unit of `core.cost` in a step.

    Attributes:
      needed: of what the rows hold.
      worked: of what a program works for them, padding and empty slots included, where it differs.
    """

    needed: dict[str, float]
    worked: dict[str, float]

    @property
    def tokens(self) -> float:
        return self.needed[cost.TOKENS]

    @property
    def most_targets(self) -> float:
        """Of the head that has the most."""
        return max(n for unit, n in self.needed.items() if unit.startswith(cost.targets("")))


def expected(system: RowSystem, data: DataConfig, cached: bool) -> Rows:
    """Full rows of documents with one image or none, drawn by the ratio of the mixture.

    A document to read is an image, 64 tokens of questions and 128 of answers; one to draw 64
    tokens and an image; a text has 640 tokens. Where a row's slots do not suffice for its images,
    the rest is padding.
    """
    streams = {
        role: stream
        for role, stream in system.layout.by_role.items()
        if role in TEXT and data.slots.get(stream.slots)
    }
    ratios = dict.fromkeys(TEXT, 0.0)
    for group in data.groups:
        tasks = [source.task for source in group.sources]
        of = [role for role in ("und", "gen") if any(may_show(task, role) for task in tasks)]
        shows = group.name if group.name in TEXT else of[0] if of else "text"
        ratios[shows] += group.ratio
    whole = sum(ratios.values())
    share = {kind: ratio / whole for kind, ratio in ratios.items()}
    length = {k: TEXT[k][0] + (streams[k].tokens if k in streams else 0) for k in TEXT}
    documents = data.row_length / sum(share[k] * length[k] for k in TEXT)
    for name in system.layout.slots:
        shown = sum(share[role] for role, stream in streams.items() if stream.slots == name)
        if shown > 0:
            documents = min(documents, data.slots[name] / shown)
    count = {kind: documents * share[kind] * data.rows for kind in TEXT}

    needed = {
        cost.TOKENS: sum(count[k] * length[k] for k in TEXT),
        cost.PAIRS: sum(count[k] * length[k] * (length[k] + 1) / 2 for k in TEXT),
        cost.targets("text"): sum(count[k] * TEXT[k][1] for k in TEXT),
    }
    unbroken = [r for r, s in streams.items() if s.kind in system.sees_whole]
    needed[cost.CAUSAL] = needed[cost.TOKENS] - sum(count[r] * streams[r].tokens for r in unbroken)
    worked = dict.fromkeys((cost.TOKENS, cost.CAUSAL), float(data.rows * data.row_length))

    def add(unit: str, amount: float) -> None:
        needed[unit] = needed.get(unit, 0.0) + amount

    for role, stream in streams.items():
        n, slots = stream.tokens, stream.slots
        if stream.kind in system.sees_whole:  # later tokens of the image too
            add(cost.PAIRS, count[role] * n * (n - 1) / 2)
        if stream.target != Target.NONE:
            answers = n + stream.answers[1] - stream.answers[0]
            add(cost.targets(stream.target.name.lower()), count[role] * answers)
        add(cost.tokens_of(slots), count[role] * n)
        add(cost.images_of(slots), count[role])
        room = float(data.rows * data.slots[slots])
        worked |= {cost.tokens_of(slots): room * n, cost.images_of(slots): room}
        if not cached or slots not in system.encoded:
            add(cost.encoded_of(slots), count[role])
            worked[cost.encoded_of(slots)] = room
    return Rows(needed, worked)
