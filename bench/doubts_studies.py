"""Synthetic studies of a known law, clean ones and corrupted ones, for `bench/doubts.py`.

Laws and seeds come in two sets. The detectors were written against `development`: six laws, seeds
from 0. `scoring` draws every law anew, from wider ranges, with seeds of its own and designs and
noise that development does not have.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

LN2 = np.log(2)
TYPICAL = (1e8, 3e9)  # N and D at which a law's terms are said
DEVELOPMENT = (
    # E, the terms of N and of D at TYPICAL, alpha, beta
    (1.80, 0.76, 0.66, 0.35, 0.37),
    (1.82, 0.80, 0.70, 0.345, 0.366),
    (1.60, 0.60, 0.90, 0.30, 0.30),
    (2.20, 1.20, 0.50, 0.45, 0.35),
    (1.00, 0.90, 1.00, 0.28, 0.42),
    (2.60, 0.40, 0.80, 0.50, 0.28),
)


@dataclasses.dataclass(frozen=True)
class Law:
    """L = E + A N^-alpha + B D^-beta, by its terms at `TYPICAL`."""

    e: float
    of_n: float
    of_d: float
    alpha: float
    beta: float

    def __call__(self, n, d):
        x, y = n / TYPICAL[0], d / TYPICAL[1]
        return self.e + self.of_n * x**-self.alpha + self.of_d * y**-self.beta

    def best(self, flops):
        """The optimal N of a budget C = 6 N D."""
        a, b = self.of_n * TYPICAL[0] ** self.alpha, self.of_d * TYPICAL[1] ** self.beta
        both = self.alpha + self.beta
        g = (self.alpha * a / (self.beta * b)) ** (1 / both)
        return g * (flops / 6) ** (self.beta / both)


@dataclasses.dataclass
class Study:
    """A table, and what is wrong with it.

    Attributes:
      columns: as `unijax.scaling.table` names them.
      known: the law.
      causes: of a doubt, any of which names it rightly.
    """

    columns: dict[str, np.ndarray]
    known: Law
    causes: tuple[str, ...] = ()

    @property
    def n(self):
        return self.columns["parameters"]

    @property
    def d(self):
        return self.columns["tokens"]

    @property
    def loss(self):
        return self.columns["loss_text_nats_per_token"]

    @loss.setter
    def loss(self, values):
        self.columns["loss_text_nats_per_token"] = values


def law(rng: np.random.Generator, scoring: bool) -> Law:
    """One of the six, or any."""
    if not scoring:
        return Law(*DEVELOPMENT[rng.integers(len(DEVELOPMENT))])
    e, terms = rng.uniform(0.6, 3.2), rng.uniform(0.25, 1.3, 2)
    return Law(e, *terms, *rng.uniform(0.2, 0.6, 2))


def clean(rng: np.random.Generator, scoring: bool) -> Study:
    """A study without a mistake: a design, a law, and normal noise in log losses."""
    one = law(rng, scoring)
    designs = [_grid, _isoflop, _ratios] + ([_scattered] if scoring else [])
    n, d = designs[rng.integers(len(designs))](rng, one)
    noise = np.exp(rng.uniform(np.log(0.0005), np.log(0.008 if scoring else 0.005)))
    loss = one(n, d) * np.exp(rng.normal(0, noise, len(n)))
    columns = {
        "run_id": np.array([f"run{i:03d}" for i in range(len(n))], dtype=object),
        "parameters": np.round(n), "tokens": np.round(d), "loss_text_nats_per_token": loss,
    }  # fmt: skip
    return Study(columns, one)


def _grid(rng, one):
    sizes, lengths = rng.integers(5, 10), rng.integers(4, 8)
    n = 10 ** rng.uniform(6.5, 7.8) * np.geomspace(1, 10 ** rng.uniform(1.4, 2.3), sizes)
    d = 10 ** rng.uniform(8.2, 9.2) * np.geomspace(1, 10 ** rng.uniform(1.4, 2.3), lengths)
    return np.repeat(n, lengths), np.tile(d, sizes)


def _isoflop(rng, one):
    budgets, sizes = rng.integers(4, 9), rng.integers(5, 9)
    flops = 10 ** rng.uniform(17, 18.5) * np.geomspace(1, 10 ** rng.uniform(1.8, 3), budgets)
    width = rng.uniform(3, 8)
    n = np.concatenate([one.best(c) * np.geomspace(1 / width, width, sizes) for c in flops])
    return n, np.repeat(flops, sizes) / (6 * n)


def _ratios(rng, one):
    sizes, ratios = rng.integers(5, 10), rng.integers(4, 7)
    n = 10 ** rng.uniform(6.8, 7.8) * np.geomspace(1, 10 ** rng.uniform(1.4, 2.2), sizes)
    ratio = rng.uniform(4, 10) * np.geomspace(1, 10 ** rng.uniform(1.0, 1.8), ratios)
    return np.repeat(n, ratios), (n[:, None] * ratio).ravel()


def _scattered(rng, one):
    runs = rng.integers(24, 90)
    n = 10 ** (rng.uniform(6.5, 7.5) + rng.uniform(0, 2, runs))
    d = 10 ** (rng.uniform(8.5, 9.2) + rng.uniform(0, 2, runs))
    return n, d


# Parts of a study.


def _ends(rng, values, most=0.45):
    """Runs at one end of an axis, up to `most` of them, at least three."""
    ordered = np.unique(values)
    for _ in range(50):
        cut = ordered[rng.integers(1, len(ordered))]
        part = values < cut if rng.random() < 0.5 else values >= cut
        if 3 <= part.sum() <= most * len(values):
            return part
    return values <= np.quantile(values, 0.25)


def _one(rng, values):
    """The runs of one value, or of a narrow band where all values differ."""
    ordered = np.unique(np.round(np.log(values), 6))
    if len(ordered) > len(values) / 2.5:
        low = rng.uniform(0, 0.75)
        ends = np.quantile(values, [low, low + 0.2])
        return (values >= ends[0]) & (values <= ends[1])
    return np.abs(np.log(values) - ordered[rng.integers(len(ordered))]) < 1e-5


def part(rng: np.random.Generator, study: Study, scoring: bool) -> tuple[np.ndarray, str]:
    """A part of the runs, and what it is a part by."""
    n, d, count = study.n, study.d, len(study.n)
    by = ["size", "sizes", "length", "lengths", "rows", "corner"]
    by += ["any", "alternate", "budgets"] if scoring else ["any"]
    for _ in range(100):
        which = by[rng.integers(len(by))]
        if which == "size":
            found = _one(rng, n)
        elif which == "sizes":
            found = _ends(rng, n)
        elif which == "length":
            found = _one(rng, d)
        elif which == "lengths":
            found = _ends(rng, d)
        elif which == "budgets":
            found = _ends(rng, n * d)
        elif which == "rows":
            size = rng.integers(3, max(4, int(0.45 * count)))
            found = (
                np.arange(count) < size if rng.random() < 0.5 else np.arange(count) >= count - size
            )
        elif which == "corner":
            found = _ends(rng, n, 0.7) & _ends(rng, d, 0.7)
        elif which == "alternate":
            found = np.arange(count) % 2 == 0
        else:
            found = rng.random(count) < rng.uniform(0.1, 0.4)
        if 3 <= found.sum() <= 0.5 * count:
            return found, which
    return np.arange(count) < count // 4, "rows"


# Mistakes. Each changes the study in place.


def units(rng, study, scoring):
    """A part's losses in bits, per byte, to the base of ten or as perplexities."""
    here, _ = part(rng, study, scoring)
    loss, which = study.loss.copy(), rng.random()
    if which < 0.6:
        loss[here] /= LN2
    elif which < 0.75:
        loss[here] *= 1 / (LN2 * rng.uniform(3.6, 4.8))  # bits per byte
    elif which < 0.85:
        loss[here] /= np.log(10)
    else:
        loss[here] = np.exp(loss[here])
    study.loss = loss
    study.causes = ("units",)


def counts(rng, study, scoring):
    """A part's tokens or parameters counted otherwise: bytes, words, sequences, embeddings too."""
    here, _ = part(rng, study, scoring)
    name = "tokens" if rng.random() < 0.6 else "parameters"
    factor = rng.choice([4.2, 1 / 4.2, 1000.0, 1e-3, 1 / 2048, 0.5, 2.0, 8.0, 1 / 8])
    if name == "parameters":
        factor = rng.choice([3.0, 1 / 3, 2.0, 0.5, 1000.0, 1e-3])
    values = study.columns[name].copy()
    values[here] = np.round(values[here] * factor)
    study.columns[name] = values
    study.causes = ("units", "mislabelled")


def tokenizer(rng, study, scoring):
    """A part's losses, and perhaps its tokens, by another tokenizer."""
    here, _ = part(rng, study, scoring)
    ratio = rng.uniform(1.06, 1.4) ** rng.choice([-1, 1])
    loss = study.loss.copy()
    loss[here] *= ratio
    study.loss = loss
    if rng.random() < 0.5:
        tokens = study.d.copy()
        tokens[here] = np.round(tokens[here] / ratio)
        study.columns["tokens"] = tokens
    study.causes = ("tokenizer",)


def rates(rng, study, scoring):
    """Losses that are the worse the larger the model: smoothly, or from a size on."""
    x = np.log(study.n)
    u = (x - x.min()) / np.ptp(x)
    start = rng.choice([0.0, 0.0, 0.4, 0.6])
    ramp = np.maximum(u - start, 0) / (1 - start)
    power = rng.choice([1.0, 2.0, 3.0]) if scoring else rng.choice([1.0, 2.0])
    study.loss = study.loss * np.exp(rng.uniform(0.03, 0.25) * ramp**power)
    study.causes = ("rates",)


def decay(rng, study, scoring):
    """A part's runs stopped before their learning rate had decayed."""
    here, _ = part(rng, study, scoring)
    loss = study.loss.copy()
    loss[here] *= 1 + rng.uniform(0.02, 0.12) * rng.uniform(0.8, 1.2, here.sum())
    study.loss = loss
    study.causes = ("decay",)


def repeated(rng, study, scoring):
    """A pool of data that the longer runs see again and again, not told (arXiv 2305.16264)."""
    d = study.d
    pool = np.quantile(d, rng.uniform(0.1, 0.6))
    half = rng.choice([4.0, 8.0, 15.4]) if scoring else 15.4
    again = np.maximum(d / pool, 1) - 1
    worth = np.minimum(d, pool) * (1 + half * (1 - np.exp(-again / half)))
    study.loss = study.loss * study.known(study.n, worth) / study.known(study.n, d)
    study.causes = ("repeated",)


def version(rng, study, scoring):
    """Two versions of the code, by rows or at random; half of the tables have a column of it."""
    here, _ = part(rng, study, scoring)
    loss = study.loss.copy()
    loss[here] *= 1 + rng.uniform(0.02, 0.15) * rng.choice([-1, 1])
    study.loss = loss
    if rng.random() < 0.5:
        study.columns["commit"] = np.where(here, "b1946ac", "591785b").astype(object)
    study.causes = ("version",)


def copied(rng, study, scoring):
    """Losses filled down over rows, or a size's losses pasted over another's."""
    count, loss = len(study.n), study.loss.copy()
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 5)):
            first, length = rng.integers(0, count - 6), rng.integers(2, 7)
            loss[first : first + length] = loss[first]
    else:
        length = rng.integers(3, max(4, count // 5))
        first, other = rng.choice(count - length, 2, replace=False)
        loss[other : other + length] = study.loss[first : first + length]
    study.loss = loss
    study.causes = ("copied",)


def mislabelled(rng, study, scoring):
    """Sizes or lengths that changed places: of whole groups, or of single rows."""
    name = "parameters" if rng.random() < 0.6 else "tokens"
    values = study.columns[name].copy()
    places = np.unique(values)
    if len(places) < len(values) / 2.5 and rng.random() < 0.6:
        i, j = rng.choice(len(places), 2, replace=False)
        values = np.where(
            values == places[i], places[j], np.where(values == places[j], places[i], values)
        )
    else:
        chosen = rng.choice(len(values), rng.integers(2, max(3, len(values) // 6)), replace=False)
        values[chosen] = values[np.roll(chosen, 1)]
    study.columns[name] = values
    study.causes = ("mislabelled",)


def noise(rng, study, scoring):
    """A corner of the study scatters many times more than the rest."""
    here = np.zeros(len(study.n), bool)
    while not 4 <= here.sum() <= 0.35 * len(here):
        here = _ends(rng, study.n, 0.7) & (_ends(rng, study.d, 0.7) | (rng.random() < 0.3))
    loss = study.loss.copy()
    loss[here] *= np.exp(rng.normal(0, rng.uniform(0.03, 0.15), here.sum()))
    study.loss = loss
    study.causes = ("noise",)


MISTAKES: dict[str, Callable] = {
    f.__name__: f
    for f in (
        units, counts, tokenizer, rates, decay, repeated, version, copied, mislabelled, noise
    )
}  # fmt: skip
