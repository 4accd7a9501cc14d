"""The methods paragraph: every choice of a fit in words, from what was done."""

from unijax.scaling.direct import STARTS
from unijax.scaling.isoflop import CHANCE, SAME_BUDGET
from unijax.scaling.paper import short
from unijax.scaling.parity import FARTHEST
from unijax.scaling.study import HIDDEN_DRAWS, Analysis, FitConfig

SOURCES = [
    "Hoffmann et al. 2022, Training compute-optimal large language models, arXiv 2203.15556",
    "Besiroglu et al. 2024, Chinchilla scaling: a replication attempt, arXiv 2404.10102",
    "Czech et al. 2026, Problems with Chinchilla approach 2, arXiv 2603.22339",
    "Efron and Tibshirani 1993, An introduction to the bootstrap",
]


def paragraph(analysis: Analysis, config: FitConfig) -> str:
    """Plain text, for a paper's methods section."""
    p, fitted = analysis.points, analysis.fitted
    sizes = sorted(set(p.parameters))
    said = [
        f"We fitted {fitted.law.form} to the held-out {analysis.modality.replace('_', ' ')} loss "
        f"(nats per token) of {len(p)} runs of {len(sizes)} sizes, {short(sizes[0])} to "
        f"{short(sizes[-1])} parameters and {short(p.tokens.min())} to {short(p.tokens.max())} "
        f"tokens. N is the column {analysis.column}, D the tokens seen in training, and C "
        + (
            f"the table's training FLOPs, {analysis.frontiers[3].cost.k:.2f} N D in the median."
            if p.flops is not None
            else "is 6 N D."
        )
    ]
    if analysis.failed:
        said.append(
            f"{len(analysis.failed)} runs that failed were left out: {', '.join(analysis.failed)}."
        )
    if config.best_learning_rate:
        lost = ", of the rates that lost no run to failure" if analysis.failed else ""
        said.append(f"Of each setting, the learning rate with the least mean loss was kept{lost}.")
    if config.tied:
        said.append("The two exponents were set equal.")
    scale = "logarithms of losses" if config.residual == "log" else "losses"
    said.append(
        f"We minimised the sum over runs of Huber's loss (delta {config.delta:g}) of differences "
        f"of {scale}, by variable projection: on a grid of exponents the other constants were "
        f"solved for, and the grid's local minima started a damped Newton descent in all of them, "
        f"with analytic derivatives. The objective at the minimum is {fitted.value:.8g}."
    )
    if analysis.direct is not None:
        said.append(
            f"As a check, L-BFGS from {STARTS} random starts of the published grid, in the "
            f"log-sum-exp form, reached {analysis.direct[1]:.8g}."
        )
    draws = f"{config.draws:,} bootstrap draws of runs with replacement (seed {config.seed})"
    said.append(f"Intervals are at {100 * config.level:g}%, from {draws}, by percentiles")
    if 2 in analysis.frontiers:
        said[-1] += "; approach 2's draws are of residuals of its parabolas"
    if 1 in analysis.frontiers:
        said[-1] += (
            f"; approach 1's are {len(analysis.frontiers[1].draws):,}, those of its draws that "
            "have a line"
        )
    said[-1] += "."
    said.append(_approaches(analysis))
    if analysis.extrapolation is not None:
        found = analysis.extrapolation
        said.append(
            f"To test extrapolation, the {config.hold_out} largest settings ({len(found.held)} "
            "runs) were hidden and the law fitted to the rest; the intervals of their losses, of "
            f"{min(config.draws, HIDDEN_DRAWS):,} draws, hold the law's uncertainty and the "
            "scatter of single runs. All runs are in the law that is reported."
        )
    if analysis.repetition is not None:
        said.append(
            f"The constants above come from runs that see each token once; the half-lives R_D and "
            f"R_N of repeated tokens and of excess parameters were then fitted to all "
            f"{analysis.repetition[0].runs} runs (Muennighoff et al. 2023, arXiv 2305.16264), each "
            "bootstrap draw of them with a draw of the constants held."
        )
    return " ".join(said)


def _approaches(analysis: Analysis) -> str:
    cost = analysis.frontiers[3].cost
    if cost.constant:
        said = ["The compute-optimal N follows from the law in closed form (approach 3)"]
    else:
        said = [
            f"C over N D differs between sizes by a factor of {cost.spread:.2f}; between them its "
            "logarithm is a cubic spline of log N, and beyond them C / D a straight line in N. The "
            "compute-optimal N has the least of the law's loss over N along that (approach 3), its "
            "exponents are of a line through the optima at nine budgets over the runs' range"
        ]
    if 2 in analysis.frontiers:
        inside = sum(v.inside for v in analysis.valleys)
        said.append(
            f"; from parabolas of loss against log N at {inside} of {len(analysis.valleys)} "
            "budgets, those with a minimum among their sizes (approach 2; the runs of a budget "
            f"are within {SAME_BUDGET[0]} of log C, and so many more than around it as chance has "
            f"once in {1 / CHANCE:,.0f})"
        )
    if 1 in analysis.frontiers:
        said.append(
            "; and from the lower envelope of the sizes' losses, interpolated in log C between "
            "their runs, at the budgets that the best size's neighbours reach too (approach 1)"
        )
    return "".join(said) + "."


def parity_paragraph(config: FitConfig) -> str:
    """Plain text, of the parity FLOP ratios."""
    return (
        f"The compute that a system needs for the compute-optimal loss of {config.reference} at "
        f"the largest compute of {config.reference}'s fitted runs, over that compute (after "
        "Zhou et al. 2024, arXiv 2408.11039, section 4.2, whose lines of log perplexity our laws' "
        "frontiers of approach 3 replace). Below 1 the system is the cheaper one. Each of "
        f"{config.draws:,} draws of the intervals, at {100 * config.level:g}%, takes a bootstrap "
        f"draw of the system's law and one of {config.reference}'s. Ratios beyond {FARTHEST:g} or "
        f"below {1 / FARTHEST:g} are told as these: such a loss may never be reached."
    )
