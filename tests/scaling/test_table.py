"""Tables of runs: what is written is read; what is wrong is refused by name, and nothing fitted."""

import numpy as np
import pytest

from tests.scaling.synthetic import BUDGETS, isoflop
from tests.scaling.synthetic import loss as law
from tests.scaling.test_more_laws import law_of_repetition
from unijax.core.errors import UserError
from unijax.scaling import table
from unijax.scaling.study import FitConfig, analyse, choose, systems
from unijax.scaling.validate import points


def rows(noise: float = 0.003) -> list[dict]:
    """A whole study."""
    p = isoflop(BUDGETS[:4], sizes=5, width=4.0, noise=noise)
    return [
        {
            "run_id": f"run{i:02d}", "system": "janus", "non_embedding_parameters": int(n),
            "tokens": int(d), "training_flops": float(6 * n * d), "seed": 0,
            "learning_rate": 1e-3, "state": "done", "loss_text_nats_per_token": float(loss),
            "loss_code_nats_per_token": float(loss) + 1, "note": "kept",
        }
        for i, (n, d, loss) in enumerate(zip(p.parameters, p.tokens, p.loss))
    ]  # fmt: skip


def written(tmp_path, changed: list[dict], name: str = "runs.parquet") -> table.Runs:
    table.write(tmp_path / name, changed)
    return table.read(tmp_path / name)


def refused(tmp_path, changed: list[dict], **options) -> str:
    choices = {"drop_failed": False, "best_learning_rate": False} | options
    with pytest.raises(UserError) as error:
        points(written(tmp_path, changed), "text", "non_embedding_parameters", **choices)
    return str(error.value)


@pytest.mark.parametrize("name", ["runs.parquet", "runs.csv"])
def test_round_trip(tmp_path, name):
    runs = written(tmp_path, rows(), name)
    assert len(runs) == 20
    assert runs.losses == ("text", "code")
    assert list(runs["run_id"][:2]) == ["run00", "run01"]
    assert list(runs["note"][:1]) == ["kept"]
    for column in ("non_embedding_parameters", "tokens", "training_flops"):
        np.testing.assert_allclose(runs[column], [r[column] for r in rows()], rtol=1e-15)
    found, kept, failed = points(runs, "text", "non_embedding_parameters", False, False)
    assert (len(found), len(kept), failed) == (20, 20, [])


def test_ids_of_digits_stay_text(tmp_path):
    changed = [r | {"run_id": f"{i:03d}"} for i, r in enumerate(rows())]
    assert list(written(tmp_path, changed, "runs.csv")["run_id"][:2]) == ["000", "001"]


def test_arrow_alone_reads_the_file_as_it_is(tmp_path):
    import pyarrow.parquet

    written(tmp_path, rows())
    assert pyarrow.parquet.read_table(tmp_path / "runs.parquet").num_rows == 20


def test_half_written_csv(tmp_path):
    written(tmp_path, rows(), "runs.csv")
    text = (tmp_path / "runs.csv").read_text()
    for cut in (-3, text.rindex("1e")):
        (tmp_path / "half.csv").write_text(text[:cut])
        with pytest.raises(UserError, match="half-written"):
            table.read(tmp_path / "half.csv")
    (tmp_path / "half.csv").write_text(text + "run99,janus\n")
    with pytest.raises(UserError, match=r"line 22: found 2 cells; expected 11, .*half-written"):
        table.read(tmp_path / "half.csv")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_written_parquet(tmp_path, share):
    written(tmp_path, rows())
    data = (tmp_path / "runs.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="half-written"):
        table.read(tmp_path / "half.parquet")


def test_a_parquet_damaged_inside_is_refused_without_a_traceback(tmp_path):
    written(tmp_path, rows())
    data = bytearray((tmp_path / "runs.parquet").read_bytes())
    data[40:140] = bytes(100)
    (tmp_path / "runs.parquet").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        table.read(tmp_path / "runs.parquet")


@pytest.mark.parametrize(
    ("column", "value", "encoding", "message"),
    [
        ("note", "kept", "utf-16", "text in UTF-16"),
        ("note", "kept", "utf-16-be", "text in UTF-16"),
        ("naïve", "kept", "latin-1", r"not UTF-8 \(0xef in line 1\)"),
        ("note", "café", "latin-1", r"not UTF-8 \(0xe9 in line 2\)"),
    ],
)
def test_a_csv_in_another_encoding_is_refused_without_a_traceback(
    tmp_path, column, value, encoding, message
):
    written(tmp_path, [r | {column: value} for r in rows()], "runs.csv")
    text = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "runs.csv").write_bytes(mark + text.encode(encoding))
    with pytest.raises(UserError, match=message):
        table.read(tmp_path / "runs.csv")


def test_a_csv_with_the_mark_of_utf_8_is_read(tmp_path):
    written(tmp_path, rows(), "runs.csv")
    data = (tmp_path / "runs.csv").read_bytes()
    (tmp_path / "runs.csv").write_bytes(b"\xef\xbb\xbf" + data)
    assert len(table.read(tmp_path / "runs.csv")) == 20


def test_a_csv_of_no_bytes_is_said_to_be_empty(tmp_path):
    (tmp_path / "runs.csv").touch()
    with pytest.raises(UserError, match="an empty file"):
        table.read(tmp_path / "runs.csv")


def test_a_table_without_a_row_is_no_table_of_no_system(tmp_path):
    # It was fitted in silence: no system, hence no law and no complaint.
    (tmp_path / "runs.csv").write_text(",".join(rows()[0]) + "\n")
    with pytest.raises(UserError, match="no row"):
        table.read(tmp_path / "runs.csv")


def test_no_file_and_other_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        table.read(tmp_path / "none.csv")
    (tmp_path / "runs.xlsx").write_text("")
    with pytest.raises(UserError, match=r"expected \.parquet or \.csv"):
        table.read(tmp_path / "runs.xlsx")
    with pytest.raises(UserError, match=r"expected \.parquet or \.csv"):
        table.write(tmp_path / "runs.txt", rows())


def test_a_loss_says_its_unit(tmp_path):
    changed = [r | {"loss_und_bits": 1.0} for r in rows()]
    with pytest.raises(UserError, match="a loss without its unit"):
        written(tmp_path, changed)


@pytest.mark.parametrize("column", ["run_id", "tokens", "non_embedding_parameters"])
def test_missing_columns(tmp_path, column):
    with pytest.raises(UserError, match=column):
        written(tmp_path, [{k: v for k, v in r.items() if k != column} for r in rows()])


def test_words_in_a_column_of_numbers(tmp_path):
    with pytest.raises(UserError, match="column tokens"):
        written(tmp_path, [r | {"tokens": "many"} for r in rows()])
    with pytest.raises(UserError, match="column tokens, line 2: found 'many'; expected a number"):
        written(tmp_path, [r | {"tokens": "many"} for r in rows()], "runs.csv")


def with_one(**values) -> list[dict]:
    changed = rows()
    changed[7] |= values
    return changed


def test_duplicate_ids(tmp_path):
    assert "ids that stand twice: run03" in refused(tmp_path, with_one(run_id="run03"))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_diverged_runs_are_named_and_left_out_only_when_asked(tmp_path, loss):
    changed = with_one(loss_text_nats_per_token=loss)
    assert "runs that diverged or are not done: run07" in refused(tmp_path, changed)
    runs = written(tmp_path, changed)
    found, kept, failed = points(runs, "text", "non_embedding_parameters", True, False)
    assert (len(found), failed) == (19, ["run07"])
    assert "run07" not in kept["run_id"]


@pytest.mark.parametrize("state", ["diverged", "unfinished"])
def test_states_count(tmp_path, state):
    assert "run07" in refused(tmp_path, with_one(state=state))


def test_unknown_state(tmp_path):
    assert "'finished'" in refused(tmp_path, with_one(state="finished"))


def test_millions_beside_counts(tmp_path):
    n = rows()[7]["non_embedding_parameters"]
    said = refused(tmp_path, with_one(non_embedding_parameters=n / 1e6))
    assert "column non_embedding_parameters" in said
    assert "run07" in said
    thousands = refused(tmp_path, with_one(tokens=rows()[7]["tokens"] / 1e4))
    assert "run07" in thousands


@pytest.mark.parametrize("column", ["non_embedding_parameters", "tokens", "training_flops"])
@pytest.mark.parametrize("slip", [1 / 50, 50, 1000])
@pytest.mark.parametrize("row", [0, 7, 19])
def test_a_slip_of_units_in_one_row_is_refused_by_name(tmp_path, column, slip, row):
    changed = rows()
    changed[row][column] *= slip
    assert f"run{row:02d}" in refused(tmp_path, changed)


def sizes_by_budgets() -> list[dict]:
    """Four runs of each of four sizes."""
    found = []
    for n in (10**7, 3 * 10**7, 10**8, 3 * 10**8):
        for c in (1e18, 3e18, 1e19, 3e19):
            d = c / (6 * n)
            found.append({
                "run_id": f"run{len(found):02d}", "non_embedding_parameters": n, "tokens": d,
                "training_flops": c, "loss_text_nats_per_token": float(law(n, d)),
            })  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("column", "slip", "rows_of_sizes"),
    [("training_flops", slip, range(4 * size, 4 * size + 4))
     for slip in (1000, 10, 0.1, 1e-3) for size in range(4)]
    + [("training_flops", 1e-3, range(8, 16)), ("tokens", 1000, range(4))],
)  # fmt: skip
def test_a_slip_of_units_in_all_runs_of_a_size_is_refused_by_name(
    tmp_path, column, slip, rows_of_sizes
):
    # The runs nearest in size, which each was compared with, had the same slip: all were fitted.
    assert len(points(written(tmp_path, sizes_by_budgets()), "text", "non_embedding_parameters",
                      False, False)[0]) == 16  # fmt: skip
    changed = sizes_by_budgets()
    for i in rows_of_sizes:
        changed[i][column] *= slip
    more = len(rows_of_sizes) - 5
    names = [f"run{i:02d}" for i in rows_of_sizes][:5]
    said = ", ".join(names) + (f" and {more} more" if more > 0 else "") + "; expected"
    assert said in refused(tmp_path, changed)


def test_compute_that_heads_dominate_at_small_sizes_is_no_slip_of_units(tmp_path):
    # With threefold N a token costs 1.2 to 1.4 times as much: k falls by 2.5 each time.
    changed = sizes_by_budgets()
    for i, r in enumerate(changed):
        r["training_flops"] *= (27, 11, 4.5, 1.8)[i // 4]
    found = points(written(tmp_path, changed), "text", "non_embedding_parameters", False, False)
    assert len(found[0]) == 16


@pytest.mark.parametrize("row", range(20))
def test_a_loss_far_below_the_others_is_refused_by_name(tmp_path, row):
    changed = rows()
    changed[row]["loss_text_nats_per_token"] = 0.1
    said = refused(tmp_path, changed)
    assert f"far better than the others allow: run{row:02d};" in said


def test_a_hundred_passes_over_few_tokens_look_neither_diverged_nor_in_other_units(tmp_path):
    # They are far worse than fewer tokens, all different: by the published law, without noise.
    once = [(n, r * n, r * n) for n in (7e6, 2e7, 6e7, 2e8, 6e8, 2e9) for r in (22, 60, 200)]
    again = [(n, u * e, u) for u in (1e8, 4e8, 1.5e9) for n in (7e6, 4e7, 1.5e8, 6e8, 2e9)
             for e in (2, 5, 15, 40, 100)]  # fmt: skip
    n, d, unique = np.array(once + again).T
    columns = {
        "run_id": [f"run{i:02d}" for i in range(len(n))], "non_embedding_parameters": n,
        "tokens": d, "unique_tokens": unique,
        "loss_text_nats_per_token": law_of_repetition(n, d, unique),
    }  # fmt: skip
    changed = [dict(zip(columns, values)) for values in zip(*columns.values())]
    runs = written(tmp_path, changed)
    assert len(points(runs, "text", "non_embedding_parameters", False, False)[0]) == len(n)
    without = [{k: v for k, v in r.items() if k != "unique_tokens"} for r in changed]
    runs = written(tmp_path, without)
    assert len(points(runs, "text", "non_embedding_parameters", False, False)[0]) == len(n)


def test_copies_of_rows_are_refused_whatever_their_ids(tmp_path):
    changed = rows()
    copy = changed[3] | {"run_id": "again", "note": "another"}
    assert "again and run03, equal in all but their ids" in refused(tmp_path, [*changed, copy])
    assert len(points(written(tmp_path, [*changed, copy | {"seed": 1}]), "text",
                      "non_embedding_parameters", False, False)[0]) == 21  # fmt: skip
    assert "ids that stand twice: run03" in refused(tmp_path, with_one(run_id="run03 "))


def test_runs_that_did_not_end_are_no_copies_of_each_other(tmp_path):
    nothing = dict.fromkeys(
        ("tokens", "loss_text_nats_per_token", "loss_code_nats_per_token",
         "non_embedding_parameters", "training_flops")
    ) | {"state": "unfinished"}  # fmt: skip
    changed = [r | nothing if i in (3, 4) else r for i, r in enumerate(rows())]
    found = points(written(tmp_path, changed), "text", "non_embedding_parameters", True, False)
    assert found[2] == ["run03", "run04"]


def test_a_small_pool_beside_a_large_corpus_looked_like_other_units(tmp_path):
    # A leap of 1,600 between 5 million different tokens, seen 200 times, and 8 billion seen once.
    small, large = {"tokens": 10**9, "unique_tokens": 5 * 10**6}, {"tokens": 8 * 10**9}
    changed = [
        {k: v for k, v in r.items() if k != "training_flops"}
        | (small if i < 10 else large | {"unique_tokens": large["tokens"]})
        for i, r in enumerate(rows())
    ]
    runs = written(tmp_path, changed)
    assert len(points(runs, "text", "non_embedding_parameters", False, False)[0]) == 20
    changed[3]["unique_tokens"] = 5 * 10**3
    assert "a leap of 1600 times between" in refused(tmp_path, changed)


def test_more_different_tokens_than_tokens(tmp_path):
    changed = [r | {"unique_tokens": r["tokens"]} for r in rows()]
    changed[7]["unique_tokens"] *= 2
    assert "more than tokens in run07" in refused(tmp_path, changed)


def test_what_may_be_a_mistake_is_a_doubt_that_names_the_run(tmp_path):
    # Without training_flops a slip of tokens is no contradiction, but it lies off the law.
    plain = [{k: v for k, v in r.items() if k != "training_flops"} for r in rows()]
    slipped = [r | {"tokens": r["tokens"] * 1000} if i == 7 else r for i, r in enumerate(plain)]
    config = FitConfig(draws=20, hold_out=0)
    for table_rows, said in ((slipped, True), (plain, False)):
        runs = written(tmp_path, table_rows)
        found = analyse(choose(runs, "janus", "text", config), "janus", "text", config)
        assert any("run07" in d.text for d in found.doubts) == said
        assert not any("times 6 N D" in d.text for d in found.doubts)
    costly = [r | {"training_flops": r["training_flops"] * 50} for r in rows()]
    found = analyse(choose(written(tmp_path, costly), "janus", "text", config), "janus", "text",
                    config)  # fmt: skip
    assert any("compute is 50 times 6 N D" in d.text for d in found.doubts)


def test_a_whole_column_in_other_units(tmp_path):
    changed = [r | {"tokens": r["tokens"] / 1e9} for r in rows()]
    assert "Multiply out" in refused(tmp_path, changed)
    for slip in (1e-12, 900):
        changed = [r | {"training_flops": r["training_flops"] * slip} for r in rows()]
        assert "in other units" in refused(tmp_path, changed)


def test_losses_in_other_units(tmp_path):
    changed = [r | {"loss_text_nats_per_token": 100.0} for r in rows()]
    assert "nats per token, 0 to 30" in refused(tmp_path, changed)


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_flops_kept_as_large_integers_are_read(tmp_path, kind):
    # Above 2^53 Arrow refuses to make floats of them, with a traceback.
    import pyarrow
    import pyarrow.parquet

    written(tmp_path, rows())
    whole = pyarrow.parquet.read_table(tmp_path / "runs.parquet")
    flops = [9_007_199_254_740_993 + 1000 * i for i in range(len(whole))]
    place = whole.column_names.index("training_flops")
    whole = whole.set_column(place, "training_flops", pyarrow.array(flops, kind))
    pyarrow.parquet.write_table(whole, tmp_path / "runs.parquet")
    np.testing.assert_allclose(
        table.read(tmp_path / "runs.parquet")["training_flops"], flops, rtol=2**-52
    )


@pytest.mark.parametrize("column", ["loss_nats_per_token", "loss__nats_per_token"])
def test_a_loss_whose_name_was_forgotten_is_refused(tmp_path, column):
    with pytest.raises(UserError, match=f"{column}: found a loss without a name") as error:
        written(tmp_path, [r | {column: 2.0} for r in rows()])
    assert "\n" not in str(error.value)


def test_missing_numbers(tmp_path):
    assert "no positive number in run07" in refused(tmp_path, with_one(tokens=None))


def test_too_few_runs(tmp_path):
    # Draws that have more than five different runs are of all six: intervals had no width.
    assert "7 to fit; expected at least 8" in refused(tmp_path, rows()[:7])


def test_one_size_or_one_length_only(tmp_path):
    one = [r | {"non_embedding_parameters": 10**8} for r in rows()]
    for r in one:
        r.pop("training_flops")
    assert "1e+08 in every row" in refused(tmp_path, one)
    one = [r | {"tokens": 10**10} for r in rows()]
    for r in one:
        r.pop("training_flops")
    assert "column tokens" in refused(tmp_path, one)


def test_several_learning_rates(tmp_path):
    double = rows() + [
        r | {"run_id": r["run_id"] + "b", "learning_rate": 3e-3,
             "loss_text_nats_per_token": r["loss_text_nats_per_token"] * (0.98 if i % 2 else 1.02)}
        for i, r in enumerate(rows())
    ]  # fmt: skip
    changed = [r | {"size": str(r["non_embedding_parameters"])} for r in double]
    assert "--best-learning-rate" in refused(tmp_path, changed)
    runs = written(tmp_path, changed)
    found, kept, _ = points(runs, "text", "non_embedding_parameters", False, True)
    assert len(found) == 20
    assert sorted(kept["run_id"]) == sorted(
        f"run{i:02d}" + ("b" if i % 2 else "") for i in range(20)
    )


def test_seeds_that_survive_a_rate_are_no_fair_mean_of_it(tmp_path):
    # Of each setting two seeds at two rates; the higher rate is better where it does not diverge.
    changed = []
    for i, r in enumerate(rows()):
        for rate, gain in ((1e-3, 1.0), (3e-3, 0.98)):
            for seed in (0, 1):
                loss = r["loss_text_nats_per_token"] * gain
                told = {"run_id": f"run{i:02d}_{rate}_{seed}", "learning_rate": rate, "seed": seed}
                told |= {"loss_text_nats_per_token": loss, "size": f"{i}"}
                diverged = i == 3 and rate == 3e-3 and seed == 1
                changed.append(r | told | {"state": "diverged" if diverged else "done"})
    runs = written(tmp_path, changed)
    _, kept, failed = points(runs, "text", "non_embedding_parameters", True, True)
    ids = kept["run_id"]
    assert failed == ["run03_0.003_1"]
    assert sorted(i for i in ids if i.startswith("run03")) == ["run03_0.001_0", "run03_0.001_1"]
    assert sum("0.003" in i for i in ids) == 38


def test_a_system_that_is_missing_in_some_rows(tmp_path):
    with pytest.raises(UserError, match="column system: found no name in 1 rows, run07 the first"):
        systems(written(tmp_path, with_one(system=None)))
    nameless = [{k: v for k, v in r.items() if k != "system"} for r in rows()]
    assert systems(written(tmp_path, nameless)) == [""]


def test_sizes_of_equal_length_and_a_rate_each_are_not_one_setting(tmp_path):
    # A table without `parameters` and `size`: its settings were the lengths alone.
    changed = []
    for i, r in enumerate(rows()):
        n, d = int(1e7 * 3 ** (i // 4)), int(1e9 * 10 ** (i % 4))
        told = {"non_embedding_parameters": n, "tokens": d, "learning_rate": 1e-2 / (1 + i // 4)}
        told |= {"training_flops": 6.0 * n * d, "loss_text_nats_per_token": float(law(n, d))}
        changed.append(r | told)
    runs = written(tmp_path, changed)
    for best in (False, True):
        assert len(points(runs, "text", "non_embedding_parameters", False, best)[0]) == 20


def test_a_rate_that_is_missing_in_some_rows(tmp_path):
    assert "column learning_rate" in refused(tmp_path, with_one(learning_rate=None))


def test_words_are_no_count_of_parameters(tmp_path):
    with pytest.raises(UserError, match="parameters column 'run_id'"):
        points(written(tmp_path, rows()), "text", "run_id", False, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [("draws", 0), ("draws", 1), ("level", 95.0), ("level", 0.0), ("seed", -1), ("hold_out", -1),
     ("budgets", (0.0,)), ("budgets", (float("nan"),))],
)  # fmt: skip
def test_options_that_give_no_intervals_are_refused(option, value):
    with pytest.raises(UserError, match="expected"):
        FitConfig(**{option: value})


def test_hiding_all_runs_is_refused_before_anything_is_fitted(tmp_path):
    runs = written(tmp_path, rows())
    with pytest.raises(UserError, match="30 settings to hide of 20"):
        choose(runs, "janus", "text", FitConfig(hold_out=30))


def test_unknown_loss_and_column(tmp_path):
    runs = written(tmp_path, rows())
    with pytest.raises(UserError, match="loss 'image'"):
        points(runs, "image", "non_embedding_parameters", False, False)
    with pytest.raises(UserError, match="parameters column 'parameters'"):
        points(runs, "text", "parameters", False, False)


def test_one_analysis_of_all(tmp_path):
    runs = written(tmp_path, rows())
    config = FitConfig(draws=50, hold_out=2)
    found = analyse(choose(runs, "janus", "code", config), "janus", "code", config)
    constants = found.constants(0.95)
    assert set(constants) == {"E", "A", "B", "alpha", "beta"}
    assert all(low < value < high for value, low, high in constants.values())
    assert constants["E"][1] < 2.8 < constants["E"][2]
    assert set(found.frontiers) == {2, 3}  # every size of these was run once: no curves
    assert len(found.extrapolation.held) == 2
    assert found.direct[1] == pytest.approx(found.fitted.value, rel=1e-3)


def test_seeds_with_losses_of_two_decimals_are_no_copies(tmp_path):
    changed = [r | {"loss_text_nats_per_token": round(r["loss_text_nats_per_token"], 2)}
               for r in rows()]  # fmt: skip
    changed = [{k: v for k, v in r.items() if k in
                ("run_id", "non_embedding_parameters", "tokens", "loss_text_nats_per_token")}
               for r in changed]  # fmt: skip
    changed += [r | {"run_id": f"{r['run_id']}-seed{seed}"} for r in changed[:3] for seed in (1, 2)]
    found = points(written(tmp_path, changed), "text", "non_embedding_parameters", False, False)
    assert len(found[0]) == 26
