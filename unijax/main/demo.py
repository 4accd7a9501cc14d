"""`unijax demo`: train a small Janus, let it draw and answer, hand it to PyTorch, and report."""

import dataclasses
import importlib.util
import pathlib
import shutil
import time

import numpy as np

from unijax.core.errors import UserError
from unijax.data import images
from unijax.data.builders import open_dataset
from unijax.data.config import SourceConfig
from unijax.data.sources import open_records
from unijax.data.tasks import QUESTIONS
from unijax.evaluate.naming import same_name
from unijax.evaluate.nearest import as_rows, nearest
from unijax.main import report
from unijax.main.report import Answered, Drawn, Section
from unijax.main.run import RunConfig
from unijax.main.train import train
from unijax.main.use import open_sampler
from unijax.sample.logits import GREEDY
from unijax.sample.prompts import question
from unijax.sample.sampler import Sampler

GUIDANCE = 3.0
QUESTION = QUESTIONS["name"][0]
HELD_OUT = 48  # pictures and prompts that the model never saw
SPLITS = ("train", "composition", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Captioned pictures, decoded.

    Attributes:
      labels: one each.
      pixels: uint8 [n, S, S, 3].
    """

    labels: list[str]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def demo(run: RunConfig, run_dir: pathlib.Path) -> int:
    """Returns the exit status: 0, or 1 if the export differs from the run."""
    began = time.perf_counter()
    train(run, run_dir)
    minutes = (time.perf_counter() - began) / 60
    sampler = open_sampler(run_dir)
    group = next(g for g in run.data.groups if g.name == "gen")
    trained = load(open_records(group.sources[0], run.data.seed), run)
    held = load(open_records(_held_out(group.sources[0]), run.data.seed), run)
    shipped = _concatenate([load(open_dataset("emoji", split), run) for split in SPLITS])
    drawn = draw(sampler, trained, shipped)
    named = name(sampler, trained)
    right = np.mean([d.right for d in drawn]), np.mean([a.right for a in named])
    headline = (
        f"{right[0]:.0%} of {len(trained)} prompts drawn right (nearest of {len(shipped)} real "
        f"pictures), {right[1]:.0%} of the pictures named exactly; trained in {minutes:.1f} minutes"
    )
    verdict, ok = check_export(run_dir)
    curves = report.read_curves(run_dir)
    sections = [
        Section(
            "Drawn from its prompts",
            "Trained prompts, greedy with guidance, each beside the picture that its prompt names. "
            "Right: of all shipped pictures, that one is the nearest in pixels.",
            drawn[:96],
        ),
        Section("Said of its pictures", "Trained pictures.", named[:48]),
        Section(
            "Drawn from prompts it never saw",
            "Held-out concepts. A model of this size that saw a few hundred pictures has no way to "
            "know them; this is what it does instead.",
            draw(sampler, held, shipped),
        ),
        Section("Said of pictures it never saw", "Held-out concepts.", name(sampler, held)),
    ]
    path = run_dir / "report.html"
    tables = {"Speed and packing": _speed(curves), "Hand-over to PyTorch": [("check", verdict)]}
    report.write(path, "A Janus trained in front of you", headline, curves, tables, sections)
    print(headline)
    print(f"report: {path}")
    return 0 if ok else 1


def load(records, run: RunConfig) -> Pictures:
    """Every record's label and picture, as the generation stream sees it."""
    labels, pixels = [], []
    for i in range(len(records)):
        record = records[i]
        picture = images.decode(record["image"], record["id"], run.data.max_pixels)
        labels.append(record["label"])
        pixels.append(images.for_generation(picture, run.data.gen.size))
    return Pictures(labels, np.stack(pixels))


def _held_out(source: SourceConfig) -> SourceConfig:
    return dataclasses.replace(source, split="validation", limit=HELD_OUT)


def _concatenate(parts: list[Pictures]) -> Pictures:
    labels = [label for part in parts for label in part.labels]
    return Pictures(labels, np.concatenate([part.pixels for part in parts]))


def draw(sampler: Sampler, pictures: Pictures, shipped: Pictures) -> list[Drawn]:
    """One greedy picture for each label, judged against all shipped pictures."""
    drawn = sampler.draw(pictures.labels, 1, GUIDANCE, GREEDY)[:, 0]
    real = as_rows(shipped.pixels)
    place = {p.tobytes(): i for i, p in enumerate(shipped.pixels)}
    right = np.array([place[p.tobytes()] for p in pictures.pixels])
    found, rank = nearest(as_rows(drawn), real, right)
    return [
        Drawn(label, picture, own, shipped.pixels[i], shipped.labels[i], bool(r == 0))
        for label, picture, own, i, r in zip(pictures.labels, drawn, pictures.pixels, found, rank)
    ]


def name(sampler: Sampler, pictures: Pictures) -> list[Answered]:
    """What is said to be in each picture."""
    turns = [[question(QUESTION, [p])] for p in pictures.pixels]
    answers = sampler.answer(turns, max_tokens=24)
    return [
        Answered(p, QUESTION, answer, label, same_name(answer, label))
        for p, answer, label in zip(pictures.pixels, answers, pictures.labels)
    ]


def check_export(run_dir: pathlib.Path) -> tuple[str, bool]:
    """Exports to the Hugging Face format and compares live logits, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'unijax[interop]' to see this check", True
    from unijax.interop.exporting import export_checkpoint
    from unijax.interop.verify import verify

    out = run_dir / "export"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier demo in the same place
    export_checkpoint(run_dir, out)
    result = verify(run_dir, out)
    verdict = "equal" if result.ok else "DIFFERENT"
    worst = max(d.largest for d in result.differences)
    return f"{verdict}: largest relative difference of logits {worst:.1e} ({out})", result.ok


def _speed(curves: list[dict]) -> list[tuple[str, str]]:
    steps = [row for row in curves if "seconds_per_step" in row]
    if not steps:
        raise UserError(
            "metrics.jsonl", "no training steps", "the log of a whole run", "Remove the directory."
        )
    mean = lambda key: float(np.mean([row[key] for row in steps[1:] or steps]))  # noqa: E731
    last = steps[-1]
    return [
        ("steps", f"{last['step']}"),
        ("tokens per second", f"{mean('tokens_per_second'):,.0f} (padding not counted)"),
        ("model FLOP/s", f"{mean('model_flops_per_second') / 1e9:.1f} G"),
        ("padding", f"{mean('padding'):.2%}"),
        ("documents per step", f"{mean('documents'):.1f}"),
        (
            "und : text : gen",
            " : ".join(f"{mean(f'data/{g}_document_share'):.2f}" for g in ("und", "text", "gen")),
        ),
    ]
