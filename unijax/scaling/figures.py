"""Figures of an analysis, as they would stand in a paper: vectors, one column or two wide."""

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from unijax.scaling.interaction import Interaction
from unijax.scaling.paper import (
    BUDGETS,
    COLUMN,
    HEIGHT,
    ONE,
    PAGE,
    SIZES,
    THREE,
    TWO,
    color_bar,
    log_axes,
    loss_axis,
    loss_name,
    power,
    short,
    size_norm,
)
from unijax.scaling.points import Points
from unijax.scaling.study import Analysis, has_band, law_at, optima

MOST_CURVES = 24  # of sizes, joined by lines
MOST_BUDGETS = 8  # in a legend no taller than its axes


def curves(points: Points) -> list[Int[np.ndarray, "m"]]:
    """The runs of each size, by rising compute; none where sizes are too many to be followed."""
    sizes = np.unique(points.parameters)
    if len(sizes) > MOST_CURVES:
        return []
    order = np.argsort(points.compute, kind="stable")
    return [order[points.parameters[order] == size] for size in sizes]


def loss_against_compute(analysis: Analysis, level: float) -> Figure:
    """Runs, joined by size, over the compute-optimal frontier with its band."""
    p = analysis.points
    figure, axes = plt.subplots(figsize=(COLUMN + 0.5, HEIGHT), layout="constrained")
    norm = size_norm(p.parameters)
    colors = matplotlib.colormaps[SIZES]
    for here in curves(p):
        color = colors(norm(p.parameters[here[0]]))
        axes.plot(p.compute[here], p.loss[here], color=color, lw=0.5, alpha=0.6)
    axes.scatter(p.compute, p.loss, c=p.parameters, norm=norm, cmap=SIZES, s=9, lw=0, zorder=3)
    flops = np.geomspace(p.compute.min(), p.compute.max() * 10, 80)
    best, low, high = optima(analysis, flops, level)["loss"]
    axes.plot(flops, best, color="k", label="compute-optimal (approach 3)", zorder=4)
    axes.fill_between(flops, low, high, color="k", alpha=0.15, lw=0)
    if analysis.extrapolation is not None:
        held = analysis.extrapolation.held
        axes.scatter(
            p.compute[held], p.loss[held], s=34, facecolors="none", edgecolors=TWO, lw=0.9,
            zorder=5, label="largest settings",
        )  # fmt: skip
    log_axes(axes, "training compute $C$ (FLOP)", loss_name(analysis))
    # A law that the runs do not determine may end anywhere: the runs stay in sight.
    least = max(min(0.99 * low.min(), 0.97 * p.loss.min()), 0.7 * p.loss.min())
    loss_axis(axes, least, 1.04 * p.loss.max())
    axes.legend(loc="best")
    color_bar(figure, axes, norm)
    return figure


def isoflop_valleys(analysis: Analysis) -> Figure:
    """Loss against N at each budget: runs, parabola, its minimum, and the fitted law."""
    p = analysis.points
    figure, axes = plt.subplots(figsize=(COLUMN + 0.7, HEIGHT), layout="constrained")
    valleys = analysis.valleys
    norm = LogNorm(min(v.flops for v in valleys) / 1.5, max(v.flops for v in valleys) * 1.5)
    colors, few = matplotlib.colormaps[BUDGETS], len(valleys) <= MOST_BUDGETS
    for valley in valleys:
        color = colors(norm(valley.flops))
        n = p.parameters[valley.runs]
        axes.scatter(n, p.loss[valley.runs], s=9, color=color, lw=0, zorder=3)
        sizes = np.geomspace(n.min() / 1.15, n.max() * 1.15, 100)
        x = np.log(sizes) - valley.center
        curve = valley.curve[0] + valley.curve[1] * x + valley.curve[2] * x * x
        axes.plot(sizes, curve, color=color, label=power(valley.flops) if few else None)
        law = law_at(analysis, sizes, analysis.frontiers[3].cost.tokens(valley.flops, sizes))
        axes.plot(sizes, law, color=color, ls=":", lw=0.9)
        if valley.inside:
            axes.plot(
                valley.parameters, valley.loss, "*", ms=8, color=color, mec="k", mew=0.5, zorder=5
            )
    log_axes(axes, "parameters $N$", loss_name(analysis))
    # A parabola through runs that are noise goes anywhere: the runs stay in sight.
    there = p.loss[np.concatenate([v.runs for v in valleys])]
    room = 0.08 * max(float(np.ptp(there)), 0.01 * float(there.max()))
    axes.set_ylim(there.min() - room, there.max() + room)
    axes.plot([], [], color="0.3", ls=":", lw=0.9, label="law (approach 3)")
    axes.plot([], [], "*", color="0.6", mec="k", mew=0.5, ms=8, ls="none", label="minimum")
    if few:
        axes.legend(
            title="budget (FLOP)", loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=8
        )
    else:
        axes.legend(loc="best")
        color_bar(figure, axes, norm, BUDGETS, "budget (FLOP)")
    return figure


def allocation(analysis: Analysis, level: float) -> Figure:
    """Compute-optimal N and D by each approach, with intervals where most draws have one."""
    p = analysis.points
    figure, panels = plt.subplots(1, 2, figsize=(PAGE, HEIGHT), layout="constrained")
    flops = np.geomspace(p.compute.min(), p.compute.max() * 100, 60)
    colors = {1: ONE, 2: TWO, 3: THREE}
    for approach, found in analysis.frontiers.items():
        color = colors[approach]
        a, b = found.exponents
        for axes, line, ends, marks, name in (
            (
                panels[0], found.optimal_parameters(flops), found.parameter_interval(flops, level),
                found.parameters, rf"approach {approach}: $N\propto C^{{{a:.2f}}}$",
            ),
            (
                panels[1], found.optimal_tokens(flops), found.token_interval(flops, level),
                found.cost.tokens(found.flops, found.parameters),
                rf"approach {approach}: $D\propto C^{{{b:.2f}}}$",
            ),
        ):  # fmt: skip
            axes.plot(flops, line, color=color, label=name, zorder=3 + approach)
            if has_band(analysis, approach):
                axes.fill_between(flops, *ends, color=color, alpha=0.14, lw=0)
            marker, size = {1: ("s", 8), 2: ("*", 40), 3: (".", 0)}[approach]
            axes.scatter(found.flops, marks, size, color, marker, lw=0, zorder=3 + approach)
    for axes, name in zip(panels, ("optimal parameters $N$", "optimal tokens $D$")):
        axes.axvspan(p.compute.min(), p.compute.max(), color="0.5", alpha=0.07, lw=0)
        log_axes(axes, "training compute $C$ (FLOP)", name, log_y=True)
        axes.legend(loc="upper left")
    return figure


def residuals(analysis: Analysis) -> Figure:
    """Relative residuals against N, D and C: a good law leaves no pattern."""
    p = analysis.points
    percent = 100 * (p.loss / analysis.fitted.predict(p) - 1)
    figure, panels = plt.subplots(
        1, 3, figsize=(PAGE, HEIGHT * 0.85), sharey=True, layout="constrained"
    )
    norm = size_norm(p.parameters)
    names = ("parameters $N$", "tokens $D$", "training compute $C$ (FLOP)")
    for axes, x, name in zip(panels, (p.parameters, p.tokens, p.compute), names):
        axes.axhline(0, color="k", lw=0.6)
        axes.scatter(x, percent, c=p.parameters, norm=norm, cmap=SIZES, s=9, lw=0)
        log_axes(axes, name, "")
    panels[0].set_ylabel("measured / fitted loss − 1 (%)")
    limit = 1.1 * np.abs(percent).max()
    panels[0].set_ylim(-limit, limit)
    color_bar(figure, panels, norm)
    return figure


def extrapolation(analysis: Analysis) -> Figure:
    """Hidden runs: what was predicted, with the interval, and what was measured."""
    found, p = analysis.extrapolation, analysis.points
    rows = np.arange(len(found.held))
    figure, axes = plt.subplots(
        figsize=(COLUMN + 0.4, 0.9 + 0.24 * len(rows)), layout="constrained"
    )
    axes.hlines(rows, *found.interval, color=ONE, lw=2.2, alpha=0.45)
    axes.plot(found.predicted, rows, "|", color=ONE, ms=9, mew=1.4, label="predicted")
    axes.plot(found.observed, rows, "o", color=TWO, ms=4, label="measured")
    axes.set_yticks(rows)
    axes.set_yticklabels(
        f"{short(p.parameters[i])} params, {short(p.tokens[i])} tokens" for i in found.held
    )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(loss_name(analysis))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def together(found: Interaction, level: float) -> Figure:
    """What mixed runs lost against runs apart, by size and tokens."""
    p = found.points
    measured, _, low, high = found.gain(level)
    figure, axes = plt.subplots(figsize=(COLUMN + 0.5, HEIGHT), layout="constrained")
    norm = size_norm(p.parameters)
    colors = matplotlib.colormaps[SIZES](norm(p.parameters))
    axes.axhline(0, color="k", lw=0.6)
    axes.vlines(p.tokens, low, high, color=colors, lw=2.2, alpha=0.4)
    axes.scatter(p.tokens, measured, c=p.parameters, norm=norm, cmap=SIZES, s=11, lw=0, zorder=3)
    log_axes(axes, "tokens of both $D_i + D_j$", "lost by mixing (nats per token)")
    color_bar(figure, axes, norm)
    return figure
