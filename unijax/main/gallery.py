"""`unijax gallery`: train a small one of each system that draws, and look at them side by side."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from unijax.core.errors import UserError
from unijax.core.system import Loss
from unijax.evaluate.captioned import Pictures, judge_drawn
from unijax.evaluate.judged import Drawn
from unijax.main import report
from unijax.main.config import load
from unijax.main.demo import check_export, pictures_of, speed_of, steps_of
from unijax.main.report import beside, section, table
from unijax.main.run import RunConfig, make_system, resolve
from unijax.main.train import train
from unijax.main.use import draws, open_sampler


@dataclasses.dataclass(frozen=True)
class Shown:
    """What one system did.

    Attributes:
      name: of its config.
      trained, held: pictures drawn from trained prompts, and from prompts that it never saw.
      seconds: of drawing a trained prompt, compiling not counted.
      curves: of its log.
      verdict, ok: of its export.
    """

    name: str
    trained: list[Drawn]
    held: list[Drawn]
    seconds: float
    curves: list[dict]
    losses: Mapping[str, Loss]
    verdict: str
    ok: bool

    @property
    def right(self) -> float:
        """Share of the trained prompts that were drawn right."""
        return float(np.mean([d.right for d in self.trained]))


def gallery(specs: Sequence[str], overrides: Sequence[str], directory: pathlib.Path) -> int:
    """Trains what is not trained yet, a run directory each, and writes gallery.html.

    Args:
      specs: configs, FILE[:ARG]; each draws the same pictures from the same prompts.
      overrides: of all of them.

    Returns:
      The exit status: 0, or 1 if an export differs from its run.

    Raises:
      UserError: two configs of a name, or others' pictures; before anything is trained.
    """
    runs = {
        pathlib.Path(spec.partition(":")[0]).stem: resolve(load(spec), overrides) for spec in specs
    }
    if len(runs) < len(specs):
        raise UserError("--config", "two of one file name", "one each", "Rename one of the files.")
    pictures = {name: pictures_of(run, make_system(run).layout) for name, run in runs.items()}
    _check_same(pictures)
    done: list[Shown] = []
    for name, run in runs.items():
        print(f"{name}:", flush=True)
        done.append(_shown(name, run, directory / name, *pictures[name]))
    headline = f"Of {len(done[0].trained)} prompts drawn right: " + ", ".join(
        f"{one.name} {one.right:.0%}" for one in done
    )
    path = directory / "gallery.html"
    report.write(path, "The same pictures, drawn by each system", headline, list(_parts(done)))
    print(headline)
    print(f"gallery: {path}")
    return 0 if all(one.ok for one in done) else 1


def _shown(
    name: str,
    run: RunConfig,
    run_dir: pathlib.Path,
    trained: Pictures,
    held: Pictures,
    shipped: Pictures,
) -> Shown:
    train(run, run_dir)
    draw = draws(open_sampler(run_dir))
    of_held, _ = judge_drawn(draw, held, shipped)
    draw(trained.labels)  # compiles for their number
    begun = time.perf_counter()
    of_trained, _ = judge_drawn(draw, trained, shipped)
    seconds = (time.perf_counter() - begun) / len(trained)
    curves = report.read_curves(run_dir)
    losses = make_system(run).losses
    return Shown(name, of_trained, of_held, seconds, curves, losses, *check_export(run_dir))


def _check_same(pictures: Mapping[str, tuple[Pictures, Pictures, Pictures]]) -> None:
    first, *_ = pictures
    wanted = [x.pixels.shape for x in pictures[first]], [x.labels for x in pictures[first]]
    for name, of_name in pictures.items():
        found = [x.pixels.shape for x in of_name], [x.labels for x in of_name]
        if found != wanted:
            trained, of_first = of_name[0], pictures[first][0]
            raise UserError(
                f"{name}: the pictures to draw",
                f"{len(trained)} of {trained.pixels.shape[1:3]} pixels, {trained.labels[0]!r} ...",
                f"those of {first}: {len(of_first)} of {of_first.pixels.shape[1:3]} pixels, "
                f"{of_first.labels[0]!r} ...",
                "Give configs of one data and one size of pictures.",
            )


def _parts(done: Sequence[Shown]):
    names = [one.name for one in done]
    rows = [
        ("drawn right", *(f"{one.right:.1%}" for one in done)),
        ("trained", *(steps_of(one.curves) for one in done)),
        ("drawing, a picture", *(f"{1e3 * one.seconds:.0f} ms" for one in done)),
        ("export", *(one.verdict for one in done)),
    ]
    yield section("What each did", "", table(rows, ("", *names)))
    for one in done:
        yield section(f"{one.name}: losses", "", report.plot(one.curves, one.losses))
        held = table(_held_out(one), ("held out", "last", "unit"))
        yield section(f"{one.name}: speed, and losses of what is held out", _NOISE, table(
            speed_of(one.curves)) + held)  # fmt: skip
    note = (
        "Trained prompts, the most likely picture each. Right: of all shipped pictures, the one "
        "that the prompt names is the nearest in pixels."
    )
    yield section("Drawn from trained prompts", note, beside(names, [one.trained for one in done]))
    note = "Held-out concepts, which models of this size have no way to know."
    yield section(
        "Drawn from prompts they never saw", note, beside(names, [one.held for one in done])
    )


_NOISE = (
    "Held-out batches are the same at every evaluation, with the same noise levels and the same "
    "noise; q0 to q3 are the quarters of the schedule, from little noise to much."
)


def _held_out(one: Shown) -> list[tuple[str, str, str]]:
    """Every loss of the last evaluation, by quarter of the noise schedule where there is one."""
    last: dict[str, float] = {}
    for row in one.curves:
        last |= {k: v for k, v in row.items() if k.startswith("validation/")}
    found = []
    for name, loss in one.losses.items():
        key = f"validation/{name}/loss"
        keys = [k for k in last if k == key or k.startswith(f"{key}/")]
        found += [
            (k.removeprefix("validation/"), f"{last[k]:.4f}", loss.unit) for k in sorted(keys)
        ]
    return found
