"""`unijax fit`: laws of a table of runs, with intervals and doubts, into one folder.

The folder holds a copy of the table, so that it says of itself what was fitted, and `fit.json`:
every choice, every constant with its interval, every doubt.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import atomic_file, writable_directory
from unijax.scaling import table
from unijax.scaling.interaction import Interaction
from unijax.scaling.points import beyond
from unijax.scaling.results import Results, analyse_table, chosen_runs
from unijax.scaling.study import Analysis, FitConfig, budgets, optima

FILE = "fit.json"


def results(path: pathlib.Path, config: FitConfig) -> Results:
    """Of the table, all of it checked first; with a progress bar."""
    runs = table.read(path)
    laws = len(chosen_runs(runs, config))
    with tqdm(total=laws * config.draws, desc="bootstrap", unit="draw") as bar:
        return analyse_table(runs, config, bar.update)


def fit(path: pathlib.Path, out: pathlib.Path, config: FitConfig) -> Results:
    """Fits and writes; prints the constants and the doubts.

    Raises:
      UserError: if `out` cannot be a folder, before anything is fitted; as `results`.
    """
    _check_place(out)
    found = results(path, config)
    writable_directory(out)
    copy = out / f"runs{path.suffix}"
    if not (copy.exists() and copy.samefile(path)):
        with atomic_file(copy) as temporary:
            shutil.copyfile(path, temporary)
    with atomic_file(out / FILE) as temporary:
        temporary.write_text(json.dumps(as_json(found, config, copy), indent=1))
    for note in found.notes:
        print(f"read: {note}")
    for analysis in found.analyses:
        print(describe(analysis, config.level))
    for line in _more(found, config.level):
        print(line)
    for line in dict.fromkeys(line for a in found.analyses for line in a.unseen):
        print(f"not excluded: {line}")
    print(f"written: {out / FILE}")
    return found


def _check_place(out: pathlib.Path) -> None:
    """Without making it: nothing is left of a fit whose table is refused."""
    there = next(p for p in (out, *out.absolute().parents) if os.path.exists(p))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        kind = "a folder that cannot be written" if there.is_dir() else "a file"
        raise UserError(
            f"--out {out}", f"{kind} at {there}", "a folder, new or there already",
            "Choose another path.",
        )  # fmt: skip


def as_json(found: Results, config: FitConfig, copy: pathlib.Path) -> dict:
    """What `fit.json` holds."""
    return {
        "table": copy.name,
        "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
        "read": list(found.notes),
        "choices": dataclasses.asdict(config),
        "fits": [_one(a, config) for a in found.analyses],
        "bimodal": [
            {
                "system": system,
                "modalities": list(one.modalities),
                "law": one.fitted.law.form,
                "runs": one.ids,
                "left_out": one.failed,
                "objective": one.fitted.value,
                "constants": {k: list(v) for k, v in one.constants(config.level).items()},
                "doubts": [d.text for d in one.doubts],
                "limits": one.limits,
                "lost_by_mixing": [list(map(float, column)) for column in one.gain(config.level).T],
            }
            for system, one in found.interactions.items()
        ],
        "parity": [
            {"system": system, "loss": loss, "reference": config.reference}
            | dataclasses.asdict(ratio)
            for (system, loss), ratio in found.parities.items()
        ],
    }


def _one(analysis: Analysis, config: FitConfig) -> dict:
    p = analysis.points
    flops = budgets(p, config)
    best = optima(analysis, flops, config.level)
    held = analysis.extrapolation
    return {
        "system": analysis.system,
        "loss": analysis.modality,
        "law": analysis.fitted.law.form,
        "runs": analysis.ids,
        "left_out": analysis.failed,
        "objective": analysis.fitted.value,
        "constants": {k: list(v) for k, v in analysis.constants(config.level).items()},
        "exponents": {
            f"approach {k}": {
                name: [value, *map(float, ends)]
                for name, value, ends in zip("ab", f.exponents, f.exponent_intervals(config.level))
            }
            for k, f in analysis.frontiers.items()
        },
        "optima": [
            {"flops": float(c)}
            | {k: [float(x) for x in v[:, i]] for k, v in best.items()}
            | {
                "beyond_sizes": beyond(p.parameters, float(best["parameters"][0, i])),
                "beyond_tokens": beyond(p.tokens, float(best["tokens"][0, i])),
            }
            for i, c in enumerate(flops)
        ],
        "hidden_runs": [
            {
                "run_id": analysis.ids[i],
                "predicted": float(held.predicted[j]),
                "interval": [float(x) for x in held.interval[:, j]],
                "measured": float(held.observed[j]),
                "relative_error": float(held.relative_error[j]),
            }
            for j, i in enumerate(held.held)
        ]
        if held is not None
        else [],
        "doubts": [d.text for d in analysis.doubts],
        "causes": list(dict.fromkeys(cause for d in analysis.doubts for cause in d.causes)),
        "limits": analysis.limits,
        "not_excluded": analysis.unseen,
    }


def describe(analysis: Analysis, level: float) -> str:
    """For the terminal."""
    lines = [f"{analysis.system} {analysis.modality}: {analysis.fitted.law.form}".strip()]
    lines += _constants(analysis, level)
    lines.append(f"  objective {analysis.fitted.value:.8g} over {len(analysis.points)} runs")
    for approach, found in analysis.frontiers.items():
        ends = zip("ND", found.exponents, found.exponent_intervals(level))
        said = [f"{x} ~ C^{value:.3f}  [{low:.3f}, {high:.3f}]" for x, value, (low, high) in ends]
        lines.append(f"  approach {approach}: {'   '.join(said)}")
    if analysis.extrapolation is not None:
        held = analysis.extrapolation
        for j, i in enumerate(held.held):
            lines.append(
                f"  hidden {analysis.ids[i]}: predicted {held.predicted[j]:.4f}, measured "
                f"{held.observed[j]:.4f} ({100 * held.relative_error[j]:+.2f}%)"
            )
    lines += [f"  doubt: {d.text}" for d in analysis.doubts]
    lines += [f"  left open: {line}" for line in analysis.limits]
    return "\n".join(lines)


def _constants(found: Analysis | Interaction, level: float) -> list[str]:
    return [
        f"  {name:6} {value:12.6g}  [{low:.4g}, {high:.4g}]"
        for name, (value, low, high) in found.constants(level).items()
    ]


def _more(found: Results, level: float) -> list[str]:
    """Of mixtures and of systems beside each other, for the terminal."""
    lines = []
    for system, one in found.interactions.items():
        lines.append(f"{system} {' and '.join(one.modalities)}: {one.fitted.law.form}".strip())
        lines += _constants(one, level)
        better = int((one.gain(level)[0] < 0).sum())
        lines.append(f"  {better} of {len(one.ids)} mixed runs are better than two runs apart")
        lines += [f"  doubt: {d.text}" for d in one.doubts]
        lines += [f"  left open: {line}" for line in one.limits]
    for (system, loss), ratio in found.parities.items():
        lines.append(
            f"{system} {loss}: parity FLOP ratio {ratio.ratio:.3f}  "
            f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            + (f", a factor of {ratio.beyond:.2g} outside of its runs" * (ratio.beyond > 1))
        )
    return lines


def fitted_constants(saved: dict) -> list[dict[str, float]]:
    """Of every law in what `fit.json` holds, without their intervals."""
    laws = [*saved["fits"], *saved["bimodal"]]
    return [{k: float(ends[0]) for k, ends in law["constants"].items()} for law in laws]


def read_choices(folder: pathlib.Path) -> tuple[pathlib.Path, FitConfig, list[dict[str, float]]]:
    """The table of a fit, its choices, and the constants that it found.

    Raises:
      UserError: if the folder is not of a fit, its file is not as `fit` writes it, or its table
        changed.
    """
    file = folder / FILE
    if not file.exists():
        raise UserError(str(folder), f"no {FILE}", "a folder that unijax fit wrote", "Fit first.")
    try:
        saved = json.loads(file.read_text())
        copy = folder / saved["table"]
        same = hashlib.sha256(copy.read_bytes()).hexdigest() == saved["sha256"]
        choices, found = saved["choices"], fitted_constants(saved)
        lists = {k: tuple(choices[k]) for k in ("losses", "budgets", "bimodal")}
        config = FitConfig(**(choices | lists))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(
            str(file), f"a broken file ({type(e).__name__}: {e})",
            "what this version of unijax fit writes", "Fit anew.",
        ) from e  # fmt: skip
    if not found:
        raise UserError(str(file), "no law", "what unijax fit wrote", "Fit anew.")
    if not same:
        raise UserError(str(copy), "another table than was fitted", "the same one", "Fit anew.")
    return copy, config, found
