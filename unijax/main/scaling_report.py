"""`unijax report`: the page and the figures of a fit, made anew from its table and its choices."""

import pathlib

import numpy as np

from unijax.core.errors import UserError
from unijax.main.fit import as_json, fitted_constants, read_choices, results
from unijax.scaling import page


def report(folder: pathlib.Path, title: str) -> pathlib.Path:
    """Writes report.html and figures/ into the folder of a fit.

    Raises:
      UserError: if the constants that come out are not those that the fit recorded.
    """
    copy, config, recorded = read_choices(folder)
    found = results(copy, config)
    again = fitted_constants(as_json(found, config, copy))
    same = [list(new) for new in again] == [list(old) for old in recorded] and all(
        np.allclose(list(new.values()), list(old.values()), rtol=1e-6)
        for new, old in zip(again, recorded)
    )
    if not same:
        raise UserError(
            str(folder), "constants that this version does not find again",
            "the fit's own", "Fit anew.",
        )  # fmt: skip
    path = page.write(folder, title, found, config)
    print(f"report: {path}; figures: {folder / 'figures'}")
    return path
