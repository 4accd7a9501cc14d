"""The page stands alone, its figures are vectors, and it says every choice and every doubt."""

import dataclasses
import html
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from tests.scaling.synthetic import as_chosen, isoflop
from tests.scaling.test_frontier import curves
from tests.scaling.test_more_laws import runs_with_epochs
from tests.scaling.test_table import rows
from unijax.scaling import contours, figures, methods, page, table
from unijax.scaling.envelope import fit_envelope
from unijax.scaling.paper import loss_name, power, short, shorts, style
from unijax.scaling.parity import Parity
from unijax.scaling.results import Results, analyse_table
from unijax.scaling.study import Analysis, FitConfig, analyse

CONFIG = FitConfig(draws=60, hold_out=2, budgets=(1e22,))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "runs.parquet"
    table.write(path, rows())
    return analyse_table(table.read(path), CONFIG)


@pytest.fixture(scope="module")
def analyses(results):
    return results.analyses


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return page.write(out, "A & B", results, CONFIG)


def test_nothing_is_loaded_from_elsewhere(written):
    text = written.read_text()
    assert "<title>A &amp; B</title>" in text
    for source in re.findall(r"(?:src|href)='?([^'\s>]+)", text):
        assert source.startswith(("data:image/svg+xml;base64,", "#")), source[:80]
    assert "<script" not in text


def test_every_figure_is_on_the_page_and_beside_it_as_vectors(written):
    text, folder = written.read_text(), written.parent / "figures"
    names = {
        f"janus_{loss}_{figure}"
        for loss in ("text", "code")
        for figure in ("loss_against_compute", "isoflop_valleys", "allocation", "residuals",
                       "contours", "extrapolation")
    }  # fmt: skip
    assert {p.stem for p in folder.glob("*.svg")} == names
    assert {p.stem for p in folder.glob("*.pdf")} == names
    for name in names:
        assert f"alt='{name}'" in text
        svg = (folder / f"{name}.svg").read_text()
        assert "<svg" in svg
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_names_in_a_table_do_not_lead_out_of_the_folder(analyses, tmp_path, monkeypatch):
    # A system "../../../evil" had its figures there; with "a/b" they lay where none were sought.
    names = [("../../../evil", "text"), ("a/b", "text"), ("a:b", "<b>")]
    named = [dataclasses.replace(analyses[0], system=s, modality=loss) for s, loss in names]
    alike = {("a/b", "<i>"): Parity(1.0, 0.9, 1.1, 1.0)}
    monkeypatch.setattr(page, "drawings", lambda *_: {n: (plt.figure(), n) for n in ("one", "two")})
    out = tmp_path / "x" / "y" / "fit"
    text = page.write(out, "T", Results(named, {}, alike), CONFIG).read_text()
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and p.parent != out / "figures"]
    assert outside == [out / "report.html"]
    assert len(list((out / "figures").glob("*.svg"))) == 3 * 2
    assert "<b>" not in text
    assert "<td>&lt;i&gt;</td>" in text


@given(st.lists(st.tuples(st.text("aA_-./\\é 日", max_size=90), st.text("b_2/", min_size=1)),
                unique=True))  # fmt: skip
def test_no_two_names_fall_on_one_file(names):
    stems = page.file_stems(names)
    assert len({s.casefold() for s in stems}) == len(names)
    for parts, stem in zip(names, stems, strict=True):
        assert re.fullmatch(r"[\w-]+", stem)
        assert len(stem.encode()) < 160  # with a figure's name, what every disk takes
        if len(names) == 1 and all(re.fullmatch(r"[\w-]{0,20}", x) for x in parts):
            assert stem == "_".join(x for x in parts if x)


def test_dollars_in_the_name_of_a_loss_begin_no_formula(analyses):
    with style():
        figure = figures.residuals(analyses[0])
        figure.axes[0].set_xlabel(loss_name(dataclasses.replace(analyses[0], modality=r"$\x$")))
        figure.savefig(io.BytesIO(), format="svg")


def test_figures_are_the_same_when_drawn_again(analyses, written):
    with style():
        figure = figures.residuals(analyses[0])
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    file = written.parent / "figures" / "janus_text_residuals.svg"
    assert data.getvalue() == file.read_bytes()


def test_constants_with_intervals_are_in_the_table(analyses, written):
    text = written.read_text()
    for analysis in analyses:
        for value, low, high in analysis.constants(0.95).values():
            value, low, high = page.numbers(value, low, high)
            assert f"<td>{value}</td><td>[{low}, {high}]</td>" in text


def test_optima_beyond_the_runs_say_how_far(analyses, written):
    # Tokens 46 times those of the longest run stood under "inside": only sizes were looked at.
    text = written.read_text()
    for analysis in analyses:
        budget, best = np.array(CONFIG.budgets), analysis.frontiers[3]
        p = analysis.points
        factors = [
            (best.optimal_parameters(budget) / p.parameters.max()).item(),
            (best.optimal_tokens(budget) / p.tokens.max()).item(),
        ]
        assert min(factors) > 1
        assert "".join(f"<td>{factor:.2g} times beyond</td>" for factor in factors) in text


def test_no_interval_is_cut_by_the_frame(analyses):
    with style():
        for analysis in analyses:
            axes = figures.loss_against_compute(analysis, 0.95).axes[0]
            (band,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
            drawn = band.get_paths()[0].vertices[:, 1]
            assert axes.get_ylim()[0] < drawn.min()
            assert drawn.max() < axes.get_ylim()[1]
            plt.close("all")


def many(sizes: int, budgets: int) -> Analysis:
    """Runs of so many sizes at so many budgets."""
    flops = np.geomspace(1e18, 1e21, budgets)
    points = isoflop(flops, sizes=sizes, noise=0.003)
    return analyse(as_chosen(points), "", "text", dataclasses.replace(CONFIG, hold_out=0))


@pytest.fixture(scope="module")
def crowded():
    return many(sizes=10, budgets=14)


def bounds(figure, artist):
    return artist.get_window_extent(figure.canvas.get_renderer())


def test_a_legend_of_many_budgets_was_taller_than_its_axes(crowded, analyses):
    with style():
        for analysis, bars in ((crowded, 1), (analyses[0], 0)):
            figure = figures.isoflop_valleys(analysis)
            figure.canvas.draw()
            axes, *others = figure.axes
            assert len(others) == bars
            assert bounds(figure, axes.get_legend()).height < bounds(figure, axes).height
            plt.close(figure)


def test_a_parabola_of_noise_put_the_runs_out_of_sight(analyses):
    found = analyses[0]
    steep = dataclasses.replace(found.valleys[0], curve=np.array([0.0, 0.0, 1e5]))
    figure = figures.isoflop_valleys(dataclasses.replace(found, valleys=[steep, *found.valleys]))
    low, high = figure.axes[0].get_ylim()
    plt.close(figure)
    there = found.points.loss[np.concatenate([v.runs for v in found.valleys])]
    assert low < there.min() < there.max() < high
    assert high - low < 1.3 * np.ptp(there)


def test_lines_joined_over_140_sizes(crowded, analyses):
    assert len(np.unique(crowded.points.parameters)) == 140
    with style():
        for analysis, joined in ((crowded, 0), (analyses[0], len(analyses[0].points))):
            figure = figures.loss_against_compute(analysis, 0.95)
            lines = [x for x in figure.axes[0].lines if x.get_lw() == 0.5]
            assert sum(len(x.get_xdata()) for x in lines) == joined
            plt.close(figure)
    assert figures.curves(crowded.points) == []


def test_draws_of_the_exponents_were_invisible(analyses):
    with style():
        figure = contours.contours(analyses[0])
        figure.canvas.draw()
        panel = figure.axes[1]
        (dots,) = [c for c in panel.collections if len(c.get_offsets()) == CONFIG.draws]
        assert np.sqrt(dots.get_sizes()[0]) > 2  # points across
        assert dots.get_alpha() >= 0.3
        # The contours say their levels in a bar: labels hid short ones, and stood in the air.
        assert not list(panel.texts)
        assert any(a.get_ylabel() == "objective over its minimum" for a in figure.axes)
        plt.close(figure)


def test_the_caption_speaks_of_no_band_only_where_there_is_none(analyses):
    analysis = analyses[0]
    few = dataclasses.replace(analysis.frontiers[2], draws=analysis.frontiers[2].draws[:20])
    some = dataclasses.replace(analysis, frontiers=analysis.frontiers | {2: few})
    with style():
        whole, part = (page.drawings(a, 0.95)["allocation"][1] for a in (analysis, some))
        plt.close("all")
    assert "No band" not in whole
    assert "No band of approach 2:" in part


def test_a_band_of_few_draws_is_not_drawn(analyses):
    # 50 of 200 draws had a line, and their band of seven decades hid all others.
    analysis = analyses[0]
    few = dataclasses.replace(analysis.frontiers[3], draws=analysis.frontiers[3].draws[:20])
    some = dataclasses.replace(analysis, frontiers=analysis.frontiers | {3: few})
    with style():
        bands = [
            sum(
                isinstance(c, PolyCollection)
                for c in figures.allocation(a, 0.95).axes[0].collections
            )
            for a in (analysis, some)
        ]
        plt.close("all")
    assert bands[0] - bands[1] == 1


def test_every_doubt_is_on_the_page(analyses, written):
    text = written.read_text()
    for analysis in analyses:
        for said in [d.text for d in analysis.doubts] + analysis.limits + analysis.unseen:
            assert html.escape(said) in text


def test_methods_state_every_choice(analyses):
    said = methods.paragraph(analyses[0], CONFIG)
    for words in ("20 runs of", "column non_embedding_parameters", "delta 0.001", "60 bootstrap",
                  "95%", "seed 0", "2 largest settings", "approach 3", "approach 2",
                  "variable projection", "sum over runs", "logarithms"):  # fmt: skip
        assert words in said, words
    assert f"{analyses[0].fitted.value:.8g}" in said
    assert "approach 1" not in said  # of these runs there is none


def test_methods_state_the_draws_that_were_made(analyses):
    one = fit_envelope(curves(), 30, 0)
    other = dataclasses.replace(analyses[0], frontiers=analyses[0].frontiers | {1: one})
    said = methods.paragraph(other, dataclasses.replace(CONFIG, draws=1000))
    assert "1,000 bootstrap draws" in said
    assert f"approach 1's are {len(one.draws)}," in said
    assert "their losses, of 300 draws" in said


def test_the_formula_is_the_one_whose_constants_are_shown(tmp_path):
    points = runs_with_epochs()
    config = FitConfig(draws=20, hold_out=0, repeated=True)
    found = analyse(as_chosen(points), "", "text", config)
    text = page.write(tmp_path, "T", Results([found], {}, {}), config).read_text()
    assert "L = E + A N′<sup>−α</sup> + B D′<sup>−β</sup>" in text
    assert "D′ = U" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.34567, "0.3457"), (2143.86, "2144"), (6.8e-6, "6.800×10<sup>-6</sup>"),
     (1.2e23, "1.200×10<sup>23</sup>"), (0.0, "0"), (99999.7, "1.000×10<sup>5</sup>"),
     (12345.6, "12350"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers(value, said):
    assert page.number(value) == said


def test_an_interval_of_mixed_notation():
    # [285, 1.200×10^6], and [980M, 1.2B].
    assert page.numbers(477.8, 285.0, 1.2e6) == [
        "4.778×10<sup>2</sup>", "2.850×10<sup>2</sup>", "1.200×10<sup>6</sup>",
    ]  # fmt: skip
    assert page.numbers(477.8, 0.0, 1.2e6)[1] == "0"
    assert page.numbers(1.398, 3.748e-6, 2.343) == ["1.398", "0.000003748", "2.343"]
    assert page.numbers(1.398, 1e-300, 2.343)[1] == "1.000×10<sup>-300</sup>"
    assert shorts(1.1e9, 9.8e8, 2.34e10) == ["1.1B", "0.98B", "23.4B"]
    assert shorts(9.7e8, 2.5e5, 1.2e12) == ["970M", "0.25M", "1200000M"]


def test_an_end_of_an_interval_that_is_no_number_stopped_the_report():
    inf, nan = float("inf"), float("nan")
    assert page.numbers(1.5, -inf, inf) == ["1.5", "−∞", "∞"]
    assert page.numbers(nan, 0.0, 2e7) == ["unknown", "0", "2.000×10<sup>7</sup>"]
    assert page.numbers(inf) == ["∞"]


@pytest.mark.parametrize(
    ("value", "mantissa", "exponent"),
    [(9.97e16, "1.0", 17), (9.94e16, "9.9", 16), (1e17, "1.0", 17), (3.21e18, "3.2", 18)],
)
def test_a_mantissa_of_ten(value, mantissa, exponent):
    assert power(value) == rf"${mantissa}\times10^{{{exponent}}}$"


@given(st.floats(1.0, 1e14))
def test_short_counts_are_within_half_of_their_last_digit(value):
    # 999.9M was 1e+03M.
    said = short(value)
    number, unit = re.fullmatch(r"([\d.]+)([kMBT]?)", said).groups()
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=0.00501)
    assert float(number) < 1000 or unit == "T"
