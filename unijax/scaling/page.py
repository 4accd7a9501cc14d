"""The report: one HTML page that needs nothing beside it, and the figures as SVG and PDF."""

import base64
import hashlib
import html
import io
import pathlib
import re
from collections.abc import Callable, Iterable

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from unijax.core.files import atomic_file
from unijax.scaling import contours, figures, methods
from unijax.scaling.interaction import Interaction
from unijax.scaling.paper import short, shorts, style
from unijax.scaling.points import beyond
from unijax.scaling.results import Results
from unijax.scaling.study import Analysis, FitConfig, budgets, has_band, optima

_STYLE = """
body { font: 16px/1.5 Georgia, "Times New Roman", serif; margin: 2.5em auto; max-width: 980px;
       padding: 0 1.2em; color: #1c1c1c; background: #fff }
h1 { font-size: 1.75em; margin-bottom: .1em; font-weight: normal }
h2 { margin-top: 2.4em; border-bottom: 1px solid #ccc; font-weight: normal }
h3 { margin: 1.8em 0 .4em; font-size: 1.05em }
.note { color: #555 } figure { margin: 1.4em 0; text-align: center }
figure img { max-width: 100% } figcaption { color: #444; font-size: .88em; text-align: left;
       max-width: 46em; margin: .4em auto 0 }
table { border-collapse: collapse; margin: 1em auto; font-size: .92em; border-top: 1.5px solid #222;
       border-bottom: 1.5px solid #222 }
th { border-bottom: .75px solid #222; font-weight: normal; font-style: italic }
td, th { padding: 3px 14px; text-align: right; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left }
.doubts { background: #fdf6e3; border-left: 3px solid #d08700; padding: .5em 1.2em;
       font-size: .94em }
.limits { background: #f4f4f4; border-left: 3px solid #999; padding: .5em 1.2em; font-size: .88em;
       margin-top: .6em }
.unseen { font-size: .94em } .unseen h3 { font-size: 1.12em }
.doubts ul, .limits ul { margin: .3em 0; padding-left: 1.2em }
nav { font-size: .94em } nav a { margin-right: 1.2em }
code { font-size: .85em } .refs { font-size: .85em; color: #444 }
"""
_REPEATED = """D′ = U<sub>D</sub> + U<sub>D</sub> R<sub>D</sub>* (1 − exp(−R / R<sub>D</sub>*)) with
R = D / U<sub>D</sub> − 1 and U<sub>D</sub> different tokens; N′ the same of N, with the
compute-optimal size for U<sub>D</sub>, or N where that is less, as its U<sub>N</sub>."""
SYMBOLS = {"alpha": "α", "beta": "β", "R_D": "R<sub>D</sub>*", "R_N": "R<sub>N</sub>*"}


def number(value: float) -> str:
    """Four digits."""
    return numbers(value)[0]


def numbers(*values: float) -> list[str]:
    """Four digits each; if the largest needs a power of ten, or the least, all have one."""
    rounded = [float(f"{v:.4g}") for v in values]
    sizes = [abs(v) for v in rounded if v and np.isfinite(v)]
    if not sizes or (1e-3 <= max(sizes) < 1e5 and min(sizes) >= 1e-9):
        show = lambda v: np.format_float_positional(v, trim="-")  # noqa: E731
    else:
        show = lambda v: "{}×10<sup>{}</sup>".format(*_parted(v))  # noqa: E731
    return [show(v) if v and np.isfinite(v) else _plainly(v) for v in rounded]


def _parted(value: float) -> tuple[str, int]:
    mantissa, exponent = f"{value:.3e}".split("e")
    return mantissa, int(exponent)


def _plainly(value: float) -> str:
    """Zero, and what is no number: an end that draws ran away to."""
    return {0.0: "0", np.inf: "∞", -np.inf: "−∞"}.get(value, "unknown")


def file_stems(names: list[tuple[str, ...]]) -> list[str]:
    """What the files of each system and loss begin with; no two names share one.

    The names are the table's: they may hold "/" or "..", and must not lead out of the folder.
    """
    found, taken = [], set()
    for parts in names:
        stem = first = "_".join(_slug(x) for x in parts if x)
        copies = 1
        while stem.casefold() in taken:  # as on disks that ignore case
            copies += 1
            stem = f"{first}_{copies}"
        taken.add(stem.casefold())
        found.append(stem)
    return found


def _slug(name: str) -> str:
    """Letters, digits, _ and - stay; a name that is changed or cut has its digest at the end."""
    kept = re.sub(r"[^\w-]+", "-", name).encode()[:60].decode(errors="ignore")
    return name if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = lambda tag, row: "".join(f"<{tag}>{c}</{tag}>" for c in row)  # noqa: E731
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def _formula(form: str) -> str:
    """A law as the code writes it, with raised Greek exponents."""
    for name in ("alpha", "beta"):
        form = form.replace(f"^-{name}", f"<sup>−{SYMBOLS[name]}</sup>")
    prime = form.replace("'", "′")
    return f"<i>{prime}</i>"


def _cells(values: Iterable[float], show: Callable[..., list[str]]) -> list[str]:
    """A value, and its interval, in one notation: two cells."""
    value, low, high = show(*map(float, values))
    return [value, f"[{low}, {high}]"]


def _fixed(digits: int) -> Callable[..., list[str]]:
    return lambda *values: [f"{v:.{digits}f}" for v in values]


def constants_table(analysis: Analysis, level: float) -> str:
    """Every constant with its interval."""
    found = analysis.constants(level)
    rows = [[SYMBOLS.get(name, name), *_cells(ends, numbers)] for name, ends in found.items()]
    rows.append(["objective", number(analysis.fitted.value), f"{len(analysis.points)} runs"])
    return _table(["constant", "value", f"{100 * level:g}% interval"], rows)


def exponents_table(analysis: Analysis, level: float) -> str:
    """a and b of N ~ C^a and D ~ C^b by approach."""
    rows = []
    for approach, found in analysis.frontiers.items():
        a, b = found.exponents
        of_a, of_b = found.exponent_intervals(level)
        cells = [_cells((value, *ends), _fixed(3)) for value, ends in ((a, of_a), (b, of_b))]
        rows.append([f"approach {approach}", *cells[0], *cells[1]])
    return _table(["", "a, N ∝ C<sup>a</sup>", "", "b, D ∝ C<sup>b</sup>", ""], rows)


def _how_far(factor: float) -> str:
    plain = np.format_float_positional(float(f"{factor:.2g}"), trim="-")
    return "inside" if factor == 1 else f"{plain} times beyond"


def optima_table(analysis: Analysis, config: FitConfig) -> str:
    """What to spend the asked budgets on."""
    p, flops = analysis.points, budgets(analysis.points, config)
    found = optima(analysis, flops, config.level)
    rows = []
    for i, c in enumerate(flops):
        row = [number(float(c))]
        for name, show in (("parameters", shorts), ("tokens", shorts), ("loss", _fixed(4))):
            row += _cells(found[name][:, i], show)
        for name, seen in (("parameters", p.parameters), ("tokens", p.tokens)):
            row.append(_how_far(beyond(seen, float(found[name][0, i]))))
        rows.append(row)
    head = ["budget (FLOP)", "N", "", "D", "", "loss", "", "sizes of the runs", "their tokens"]
    return _table(head, rows)


def extrapolation_table(analysis: Analysis) -> str:
    """Hidden runs: predicted, measured, error."""
    found, p = analysis.extrapolation, analysis.points
    rows = []
    for j, i in enumerate(found.held):
        name = [html.escape(analysis.ids[i]), short(p.parameters[i]), short(p.tokens[i])]
        losses = _cells((found.predicted[j], *found.interval[:, j]), _fixed(4))
        losses += [f"{found.observed[j]:.4f}", f"{100 * found.relative_error[j]:+.2f}%"]
        rows.append([*name, *losses, "yes" if found.inside[j] else "no"])
    head = ["run", "N", "D", "predicted", "interval", "measured", "error", "inside"]
    return _table(head, rows)


def drawings(analysis: Analysis, level: float) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and caption, of those that the runs allow."""
    percent = f"{100 * level:g}%"
    found = {
        "loss_against_compute": (
            figures.loss_against_compute(analysis, level),
            f"Held-out loss of every run against training compute{_joined(analysis)}, and the "
            f"compute-optimal frontier of the fitted law with its {percent} interval.",
        )
    }
    if analysis.valleys:
        found["isoflop_valleys"] = (
            figures.isoflop_valleys(analysis),
            "Loss against size at equal compute: runs, a parabola for each budget (approach 2) "
            "with its minimum, and the fitted law (dotted).",
        )
    found["allocation"] = (
        figures.allocation(analysis, level),
        f"Compute-optimal parameters and tokens by each approach, with {percent} intervals. "
        f"Shaded: the range of the runs; beyond it all is extrapolation.{_without_band(analysis)}",
    )
    found["residuals"] = (
        figures.residuals(analysis),
        "Relative residuals of the fitted law. A pattern would say that the law is wrong.",
    )
    found["contours"] = (
        contours.contours(analysis),
        "Left: contours of the fitted loss, runs coloured by their measured loss, and the "
        "compute-optimal frontier. Right: how sharply the runs determine the two exponents: the "
        "objective, least over the other constants, over its minimum; points are bootstrap draws, "
        "all but the outermost 1%, and those in a line at an end are at the search's bound.",
    )
    if analysis.extrapolation is not None:
        found["extrapolation"] = (
            figures.extrapolation(analysis),
            f"The largest settings, hidden from the fit: predicted loss with its {percent} "
            "interval, and the measured one.",
        )
    return found


def _joined(analysis: Analysis) -> str:
    return ", joined by size" if figures.curves(analysis.points) else ""


def _without_band(analysis: Analysis) -> str:
    """Said of the approaches that have none."""
    bare = [f"approach {k}" for k in analysis.frontiers if not has_band(analysis, k)]
    if not bare:
        return ""
    return (
        f" No band of {' and '.join(bare)}: less than half of the bootstrap's draws have a "
        "frontier by it."
    )


def write(out: pathlib.Path, title: str, results: Results, config: FitConfig) -> pathlib.Path:
    """Writes `report.html`, and figures/*.svg and *.pdf, into the folder `out`.

    Returns:
      The path of the page.
    """
    sections, links = [], []
    mixed = [(s, *found.modalities, "together") for s, found in results.interactions.items()]
    stems = iter(file_stems([(a.system, a.modality) for a in results.analyses] + mixed))
    for i, analysis in enumerate(results.analyses):
        name = " · ".join(x for x in (analysis.system, analysis.modality.replace("_", " ")) if x)
        links.append(f"<a href='#s{i}'>{html.escape(name)}</a>")
        body = _section(out / "figures" / next(stems), analysis, config)
        sections.append(f"<h2 id=s{i}>{html.escape(name)}</h2>" + body)
    for i, (system, found) in enumerate(results.interactions.items()):
        name = " · ".join(x for x in (system, " and ".join(found.modalities)) if x)
        links.append(f"<a href='#m{i}'>{html.escape(name)}</a>")
        body = _interaction(out / "figures" / next(stems), found, config.level)
        sections.append(f"<h2 id=m{i}>{html.escape(name)}, together</h2>" + body)
    if results.parities:
        links.append("<a href='#p'>parity</a>")
        sections.append("<h2 id=p>Parity FLOP ratios</h2>" + _parities(results, config))
    references = "".join(f"<li>{html.escape(s)}</li>" for s in methods.SOURCES)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body><h1>{html.escape(title)}</h1>"
        f"<nav>{''.join(links)}</nav>{''.join(sections)}"
        f"<h2>References</h2><ol class=refs>{references}</ol></body></html>\n"
    )
    path = out / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(stem: pathlib.Path, analysis: Analysis, config: FitConfig) -> str:
    body = [_doubts(analysis)]
    repeats = analysis.repetition is not None
    law = analysis.repetition[0].law if repeats else analysis.fitted.law
    body.append(f"<h3>Constants of {_formula(law.form)}</h3>")
    body.append(f"<p class=note>{_REPEATED}</p>" * repeats)
    body.append(constants_table(analysis, config.level))
    body.append("<h3>How optimal parameters and tokens grow with compute</h3>")
    body.append(exponents_table(analysis, config.level))
    body.append("<h3>Compute-optimal runs (approach 3)</h3>" + optima_table(analysis, config))
    if analysis.extrapolation is not None:
        body.append("<h3>Hidden runs</h3>" + extrapolation_table(analysis))
    with style():
        for name, (figure, caption) in drawings(analysis, config.level).items():
            image = _save(stem.parent, f"{stem.name}_{name}", figure)
            body.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    body.append(_box("unseen", "<h3>What these columns cannot show</h3>", analysis.unseen))
    body.append(f"<h3>Methods</h3><p>{html.escape(methods.paragraph(analysis, config))}</p>")
    return "".join(body)


def _doubts(found: Analysis | Interaction) -> str:
    """Doubts first, what cannot be told below them."""
    return _box("doubts", "Read this first:", [d.text for d in found.doubts]) + _box(
        "limits", "What these runs leave open:", found.limits
    )


def _box(kind: str, title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<div class={kind}>{title}<ul>{items}</ul></div>"


def _interaction(stem: pathlib.Path, found: Interaction, level: float) -> str:
    rows = [
        [SYMBOLS.get(name, name), *_cells(ends, numbers)]
        for name, ends in found.constants(level).items()
    ]
    rows.append(["objective", number(found.fitted.value), f"{len(found.ids)} mixed runs"])
    table = _table(["constant", "value", f"{100 * level:g}% interval"], rows)
    with style():
        image = _save(stem.parent, stem.name, figures.together(found, level))
    caption = (
        "What mixed runs lose, in the mean of both losses, against two runs of one modality each "
        "with the same tokens of it, as their laws have it. Below zero together is better. Points: "
        f"measured; bars: the law's {100 * level:g}% interval."
    )
    methods = (
        "The laws of one modality were fitted to the runs that saw no other, and held; the other "
        "constants to the mixed runs (Aghajanyan et al. 2023, arXiv 2301.03728). Each bootstrap "
        "draw holds one of both unimodal laws and resamples the mixed runs."
    )
    if found.failed:
        methods += f" Runs that failed were left out: {', '.join(found.failed)}."
    return (
        f"{_doubts(found)}<h3>Constants of {_formula(found.fitted.law.form)}</h3>{table}"
        f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        f"<h3>Methods</h3><p>{html.escape(methods)}</p>"
    )


def _parities(results: Results, config: FitConfig) -> str:
    rows = [
        [html.escape(system), html.escape(loss),
         *_cells((r.ratio, r.low, r.high), _fixed(3)), _how_far(r.beyond)]
        for (system, loss), r in results.parities.items()
    ]  # fmt: skip
    head = ["system", "loss", f"FLOP of {html.escape(config.reference)}", "", "runs"]
    said = html.escape(methods.parity_paragraph(config))
    return f"{_table(head, rows)}<h3>Methods</h3><p>{said}</p>"


def _save(folder: pathlib.Path, name: str, figure: Figure) -> str:
    """Writes both files, and returns the SVG as an image of the page."""
    for kind in ("svg", "pdf"):
        data = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
        figure.savefig(data, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # the other file is the same picture, laid out once
        with atomic_file(folder / f"{name}.{kind}") as temporary:
            temporary.write_bytes(data.getvalue())
        if kind == "svg":
            svg = base64.b64encode(data.getvalue()).decode()
    width = int(np.round(figure.get_size_inches()[0] * 120))
    plt.close(figure)
    return f"<img alt='{html.escape(name)}' width={width} src='data:image/svg+xml;base64,{svg}'>"
