"""`unijax report`: the page and the figures of a fit, made anew from its table and its choices."""

import pathlib

import numpy as np

from unijax.core.errors import UserError
from unijax.main.fit import as_json, read_choices, results
from unijax.scaling import page


def report(folder: pathlib.Path, title: str) -> pathlib.Path:
    """Writes report.html and figures/ into the folder of a fit.

    Raises:
      UserError: if the constants that come out are not those that the fit recorded.
    """
    copy, config, saved = read_choices(folder)
    found = results(copy, config)
    again = as_json(found, config, copy)
    pairs = [p for k in ("fits", "bimodal") for p in zip(saved[k], again[k], strict=True)]
    for old, new in pairs:
        ours, theirs = (np.array([v[0] for v in f["constants"].values()]) for f in (new, old))
        if not np.allclose(ours, theirs, rtol=1e-6):
            raise UserError(
                str(folder), "constants that this version does not find again",
                "the fit's own", "Fit anew.",
            )  # fmt: skip
    path = page.write(folder, title, found, config)
    print(f"report: {path}; figures: {folder / 'figures'}")
    return path
