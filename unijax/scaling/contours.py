"""The fitted law as contours, and how sharply the runs determine its exponents."""

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator

from unijax.scaling.fit import project
from unijax.scaling.laws import EXPONENTS
from unijax.scaling.paper import HEIGHT, ONE, PAGE, TWO, log_axes, loss_name
from unijax.scaling.study import Analysis, law_at

GRID = 40  # values of each exponent at which the objective is found
LEVELS = (1.01, 1.03, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)  # of it, over its minimum


def contours(analysis: Analysis) -> Figure:
    """The fitted law over C and N with the frontier; and the objective over the two exponents."""
    p, best = analysis.points, analysis.frontiers[3]
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, HEIGHT * 1.05), layout="constrained")
    flops = np.geomspace(p.compute.min() / 2, p.compute.max() * 4, 150)
    sizes = np.geomspace(p.parameters.min() / 2, p.parameters.max() * 2, 150)
    c, n = np.meshgrid(flops, sizes)
    loss = law_at(analysis, n, best.cost.tokens(c, n))
    levels = np.geomspace(loss.min(), min(loss.max(), 1.5 * p.loss.max()), 15)
    left.contour(c, n, loss, levels=levels, cmap="cividis", linewidths=0.7)
    left.scatter(
        p.compute, p.parameters, c=p.loss, cmap="cividis", norm=LogNorm(levels[0], levels[-1]),
        s=11, lw=0.3, edgecolors="w", zorder=3,
    )  # fmt: skip
    left.plot(flops, best.optimal_parameters(flops), color=TWO, label="compute-optimal")
    left.set_ylim(sizes[0], sizes[-1])
    log_axes(left, "training compute $C$ (FLOP)", "parameters $N$", log_y=True)
    mappable = matplotlib.cm.ScalarMappable(LogNorm(levels[0], levels[-1]), "cividis")
    bar = figure.colorbar(mappable, ax=left, pad=0.02, aspect=28)
    ticks = MaxNLocator(5).tick_values(levels[0], levels[-1])
    bar.set_ticks(ticks[(ticks > levels[0]) & (ticks < levels[-1])], minor=False)
    bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    bar.ax.minorticks_off()
    bar.set_label(loss_name(analysis))
    bar.outline.set_linewidth(0.4)
    left.legend(loc="upper left", frameon=True, edgecolor="none", framealpha=0.85)
    _objective_panel(right, analysis)
    return figure


def _objective_panel(axes: Axes, analysis: Analysis) -> None:
    """The projected objective around the minimum, with the bootstrap's draws."""
    p, fitted = analysis.points, analysis.fitted
    drawn, found = fitted.law.constants(analysis.draws), fitted.constants()
    if fitted.law.tied:
        axes.hist(drawn["alpha"], bins=40, color="0.6")
        axes.axvline(found["alpha"], color=TWO)
        axes.set_xlabel(r"$\alpha=\beta$")
        axes.set_ylabel("bootstrap draws")
        return
    ends = {}
    for name in ("alpha", "beta"):
        low, high = np.quantile(drawn[name], [0.005, 0.995])
        room = 0.25 * max(high - low, 0.02)
        ends[name] = np.linspace(
            max(low - room, EXPONENTS[0]), min(high + room, EXPONENTS[1]), GRID
        )
    grid = np.stack(np.meshgrid(ends["alpha"], ends["beta"], indexing="ij"), axis=-1)
    _, values = project(fitted.law, p, fitted.objective, grid.reshape(-1, 2))
    ratio = (values / fitted.value).reshape(GRID, GRID).T
    axes.scatter(drawn["alpha"], drawn["beta"], 5, ONE, lw=0, alpha=0.5, zorder=1)
    shown = axes.contour(
        ends["alpha"], ends["beta"], ratio, levels=LEVELS, linewidths=0.9, zorder=2,
        colors=matplotlib.colormaps["plasma"](np.linspace(0, 0.85, len(LEVELS))),
    )  # fmt: skip
    # In a bar: labels on the lines hide short ones, and stand where no line is.
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.02, aspect=28, ticks=LEVELS, format="%g")
    bar.set_label("objective over its minimum")
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.4)
    axes.plot(found["alpha"], found["beta"], "+", color=TWO, ms=9, mew=1.4, zorder=3)
    axes.set_xlim(ends["alpha"][[0, -1]])
    axes.set_ylim(ends["beta"][[0, -1]])
    axes.set_xlabel(r"exponent of parameters $\alpha$")
    axes.set_ylabel(r"exponent of tokens $\beta$")
