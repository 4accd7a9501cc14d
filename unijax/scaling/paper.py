"""How figures look: fonts, colours, and the axes that several of them have."""

import contextlib
from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from unijax.scaling.study import Analysis

COLUMN, PAGE, HEIGHT = 3.4, 7.0, 2.6  # inches
SIZES, BUDGETS = "viridis", "plasma_r"
ONE, TWO, THREE = "#0072b2", "#d55e00", "#222222"  # approaches; told apart by the colour-blind
STYLE = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.03,
    "svg.fonttype": "path",
    "svg.hashsalt": "unijax",
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for these figures, put back afterwards."""
    with plt.rc_context(STYLE):
        yield


UNITS = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T"))


def short(value: float) -> str:
    """1.2M, 340k: as counts are said."""
    return shorts(value)[0]


def shorts(*values: float) -> list[str]:
    """A count and the ends of its interval, all in the unit of the first."""
    rounded = [float(f"{v:.3g}") for v in values]  # 999,900 is 1M
    unit, name = max((u for u in UNITS if rounded[0] >= u[0]), default=UNITS[0])
    return [f"{_plain(v / unit)}{name}" for v in rounded]


def _plain(value: float) -> str:
    """Three digits, never as a power of ten."""
    return np.format_float_positional(float(f"{value:.3g}"), trim="-")


def power(value: float) -> str:
    """Mathtext of 3.2e18."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def log_axes(axes: Axes, x: str, y: str, log_y: bool = False) -> None:
    """Logarithmic x, and y where asked, with their names."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high > 10 * low:  # powers of ten are among the ticks, and the names between them overlap
        axes.xaxis.set_minor_formatter(NullFormatter())
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def loss_axis(axes: Axes, low: float, high: float) -> None:
    """Losses on a logarithmic axis span less than a decade: ticks at round numbers."""
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(ticks[ticks > 0]))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)


def size_norm(values: np.ndarray) -> LogNorm:
    """Of colours by size."""
    return LogNorm(values.min() / 1.05, values.max() * 1.05)


def loss_name(analysis: Analysis) -> str:
    """Of an axis."""
    name = analysis.modality.replace("_", " ").replace("$", r"\$")  # no formula between dollars
    return f"{name} loss (nats per token)"


def color_bar(
    figure: Figure, axes, norm: LogNorm, colors: str = SIZES, label: str = "parameters $N$"
) -> None:
    """The bar that says which colour is which size, or budget."""
    mappable = matplotlib.cm.ScalarMappable(norm, colors)
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=28)
    bar.set_label(label)
    bar.outline.set_linewidth(0.4)
