"""`unijax demo`: train a small Janus, let it draw and answer, hand it to PyTorch, and report."""

import dataclasses
import importlib.util
import pathlib
import shutil

import numpy as np

from unijax.core.errors import UserError
from unijax.core.stream import Layout
from unijax.data.config import SourceConfig, preparation
from unijax.data.sources import open_records
from unijax.evaluate.captioned import Pictures, judge_drawn, judge_named, load, load_shipped
from unijax.main import report
from unijax.main.report import cards, section, table
from unijax.main.run import RunConfig
from unijax.main.train import train
from unijax.main.use import asks, draws, open_sampler

HELD_OUT = 48  # pictures and prompts that the model never saw


def demo(run: RunConfig, run_dir: pathlib.Path) -> int:
    """Returns the exit status: 0, or 1 if the export differs from the run."""
    train(run, run_dir)
    sampler = open_sampler(run_dir)
    trained, held, shipped = pictures_of(run, sampler.system.layout)
    drawn, _ = judge_drawn(draws(sampler), trained, shipped)
    named = judge_named(asks(sampler), trained)
    right = np.mean([d.right for d in drawn]), np.mean([a.right for a in named])
    curves = report.read_curves(run_dir)
    headline = (
        f"{right[0]:.0%} of {len(trained)} prompts drawn right (nearest of {len(shipped)} real "
        f"pictures), {right[1]:.0%} of the pictures named exactly; {steps_of(curves)}"
    )
    verdict, ok = check_export(run_dir)
    parts = [
        section("Losses", "", report.plot(curves, sampler.system.losses)),
        section("Speed and packing", "", table(speed_of(curves))),
        section("Hand-over to PyTorch", "", table([("check", verdict)])),
        section(
            "Drawn from its prompts",
            "Trained prompts, greedy, each beside the picture that its prompt names. "
            "Right: of all shipped pictures, that one is the nearest in pixels.",
            cards(drawn[:96]),
        ),
        section("Said of its pictures", "Trained pictures.", cards(named[:48])),
        section(
            "Drawn from prompts it never saw",
            "Held-out concepts. A model of this size that saw a few hundred pictures has no way to "
            "know them; this is what it does instead.",
            cards(judge_drawn(draws(sampler), held, shipped)[0]),
        ),
        section(
            "Said of pictures it never saw",
            "Held-out concepts.",
            cards(judge_named(asks(sampler), held)),
        ),
    ]
    path = run_dir / "report.html"
    report.write(path, "A Janus trained in front of you", headline, parts)
    print(headline)
    print(f"report: {path}")
    return 0 if ok else 1


def pictures_of(run: RunConfig, layout: Layout) -> tuple[Pictures, Pictures, Pictures]:
    """Of a demo's config: what it draws in training, what is held out, all that are shipped."""
    group = next(g for g in run.data.groups if g.name == "gen")
    prepare = preparation(run.data, layout.by_role["gen"])
    trained = load(open_records(group.sources[0], run.data.seed), prepare)
    held = load(open_records(_held_out(group.sources[0]), run.data.seed), prepare)
    return trained, held, load_shipped(prepare)


def _held_out(source: SourceConfig) -> SourceConfig:
    return dataclasses.replace(source, split="validation", limit=HELD_OUT)


def check_export(run_dir: pathlib.Path) -> tuple[str, bool]:
    """Exports in the first format of the system and compares live outputs, where torch is there."""
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
    return f"{verdict}: largest relative difference {worst:.1e} ({out})", result.ok


def steps_of(curves: list[dict]) -> str:
    """How many steps in how many minutes, compiling included, evaluations not; resumed or not."""
    last, seconds = 0, 0.0
    for row in curves:
        if "seconds_per_step" in row:
            seconds += row["seconds_per_step"] * (row["step"] - last)
            last = row["step"]
    return f"{last:,} steps in {seconds / 60:.1f} minutes"


def speed_of(curves: list[dict]) -> list[tuple[str, str]]:
    """Names and figures, from the log of a run."""
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
        (
            "model FLOP/s",
            f"{mean('model_flops_per_second') / 1e9:.1f} G (attention: the pairs that are seen)",
        ),
        ("padding", f"{mean('padding'):.2%}"),
        ("documents per step", f"{mean('documents'):.1f}"),
        (
            "und : text : gen",
            " : ".join(f"{mean(f'data/{g}_document_share'):.2f}" for g in ("und", "text", "gen")),
        ),
    ]
