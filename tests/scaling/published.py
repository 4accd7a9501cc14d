"""Published sweeps, which do not ship: $UNIJAX_SCALING_DATA, or ../shared beside the checkout."""

import csv
import json
import os
import pathlib

import numpy as np
import pytest

from unijax.scaling.points import Points


def folder() -> pathlib.Path:
    """Where the data is, or the test is skipped with the reason."""
    named = os.environ.get("UNIJAX_SCALING_DATA")
    beside = pathlib.Path(__file__).parents[3] / "shared" / "scaling-data"
    path = pathlib.Path(named) if named else beside
    if not path.is_dir():
        pytest.skip(f"published sweeps are not at {path}; set UNIJAX_SCALING_DATA to their folder")
    return path


def chinchilla(outliers: int = 5) -> Points:
    """Points of Hoffmann et al.'s figure 4 as Besiroglu et al. read them, less the worst losses."""
    with (folder() / "chinchilla_epoch.csv").open() as file:
        rows = list(csv.DictReader(file))
    n, c, loss = (
        np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss")
    )
    kept = np.sort(np.argsort(loss)[: len(loss) - outliers])
    return Points(n[kept], c[kept] / (6 * n[kept]), loss[kept])


def gadre() -> dict:
    """By data set: the five points of each fit, its constants, its predictions."""
    return json.loads((folder() / "gadre" / "published_fit.json").read_text())


def gadre_runs() -> dict[str, dict]:
    """Rows by name."""
    with (folder() / "gadre" / "gadre_104_runs.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}
