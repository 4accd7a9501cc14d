"""Tables as people write them: 12B, thousands apart, decimal commas, semicolons, comments."""

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scaling.test_table import rows
from unijax.core.errors import UserError
from unijax.scaling import cells, table

HEAD = "run_id,parameters,tokens,loss_text_nats_per_token"


def read(tmp_path, text: str) -> table.Runs:
    (tmp_path / "runs.csv").write_text(text, encoding="utf-8")
    return table.read(tmp_path / "runs.csv")


def refusal(tmp_path, text: str) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    return str(error.value)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("12B", 12e9), ("1.5b", 1.5e9), ("350 M", 350e6), ("12 billion", 12e9), ("2.5T", 2.5e12),
     ("125k", 125e3), ("3.1e3M", 3.1e9), ("20B tokens", 20e9), ("1.2 PFLOPs", 1.2e15),
     ("5 tokens", 5.0), ("1 234 567", 1234567.0), ("1_234_567", 1234567.0),
     ("1'234'567", 1234567.0), ("12\u202f345\u202f678", 12345678.0), ("1.3e9", 1.3e9),
     ("1.3x10^9", 1.3e9), ("1.3 × 10^9", 1.3e9), ("+7", 7.0), ("12E", 12e18), (".5G", 0.5e9),
     ("10^9", 1e9), ("2^30", 2.0**30), ("1.3×10⁹", 1.3e9), ("1.3*10**9", 1.3e9)],
)  # fmt: skip
def test_a_count_with_its_unit_was_told_as_half_written(tmp_path, cell, value):
    runs = read(tmp_path, f"{HEAD}\na,{cell},2e9,3.1\n")
    assert runs["parameters"][0] == pytest.approx(value, rel=1e-15)


def test_what_was_read_otherwise_than_by_its_letters_is_said(tmp_path):
    runs = read(tmp_path, f'# sweep of May\n{HEAD}\n# the small ones\na,12B,"1,234,567,890",3.1\n')
    assert runs["tokens"][0] == 1234567890
    assert runs.notes == (
        "2 comment lines were left out",
        "column parameters: 12B was read as 1.2e+10 (multiplied out)",
        "column tokens: 1,234,567,890 was read as 1234567890 (thousands apart)",
    )
    assert read(tmp_path, f"{HEAD}\na,12000000000,1.2e9,3.1\n").notes == ()


def test_semicolons_with_decimal_commas(tmp_path):
    text = HEAD.replace(",", ";") + ";learning_rate\n"
    text += "a;1.234.567;2,5e9;3,125;0,003\nb;12,5M;1.500.000.000;2,9;3e-4\n"
    runs = read(tmp_path, text)
    np.testing.assert_array_equal(runs["parameters"], [1234567, 12.5e6])
    np.testing.assert_array_equal(runs["tokens"], [2.5e9, 1.5e9])
    np.testing.assert_array_equal(runs.loss("text"), [3.125, 2.9])
    np.testing.assert_array_equal(runs["learning_rate"], [0.003, 3e-4])
    assert "cells are parted by ';'" in runs.notes


@pytest.mark.parametrize("begins", ["#", "  # ", "//", "%"])
def test_a_quotation_mark_in_a_comment_is_no_cell_of_many_lines(tmp_path, begins):
    # It swallowed the rest of the file, which was told as half-written.
    comment = f'{begins} the sweep of "May, by hand\n'
    text = f'{comment}{HEAD}\n{comment}"a\n# no comment",7e6,2e9,3.1\n{comment}b,8e6,2e9,3\n'
    runs = read(tmp_path, text)
    assert list(runs["run_id"]) == ["a\n# no comment", "b"]
    assert runs.notes == ("3 comment lines were left out",)
    assert ", line 8: found 'x'" in refusal(tmp_path, text + "c,x,2e9,3\n")


def test_a_table_in_markdown(tmp_path):
    head = HEAD.replace(",", " | ")
    runs = read(tmp_path, f"| {head} |\n|:---|---:|:---:|------|\n| a | 12B | 1.2T | 2.1 |\n")
    assert list(runs.columns) == HEAD.split(",")
    assert (runs["parameters"][0], runs["tokens"][0]) == (12e9, 1.2e12)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_mark_between_cells(tmp_path, mark):
    text = f"{HEAD}\na,7000000,2e9,3.1\n".replace(",", mark)
    for before in ("", f"sep={mark}\n", "\ufeff", "\n# by hand\n\n"):
        runs = read(tmp_path, before + text)
        assert (runs["parameters"][0], runs.loss("text")[0]) == (7e6, 3.1)


def test_columns_without_a_name_and_a_cell_are_no_columns(tmp_path):
    # As spreadsheets leave them: two of them were "two columns of one name".
    runs = read(tmp_path, f"{HEAD},,\na,7000000,2e9,3.1,,\n")
    assert list(runs.columns) == HEAD.split(",")


def test_a_loss_of_three_decimals_is_no_count_of_thousands(tmp_path):
    # Nothing else in the file tells what its commas are.
    runs = read(tmp_path, HEAD.replace(",", ";") + "\na;7000000;2e9;3,125\n")
    assert runs.loss("text")[0] == 3.125


def test_a_comma_in_a_loss_tells_what_those_in_counts_are(tmp_path):
    # No loss has thousands: 7.000 millions became 7000 parameters where the loss was 3.125.
    runs = read(tmp_path, HEAD.replace(",", ";") + "\na;7,000;2,500;3,125\n")
    assert (runs["parameters"][0], runs["tokens"][0], runs.loss("text")[0]) == (7, 2.5, 3.125)


@pytest.mark.parametrize(
    ("row", "cell"),
    [("a,12X,2e9,3.1", "12X"), ("a,1.2.3,2e9,3.1", "1.2.3"), ('a,"1,23,456",2e9,3.1', "1,23,456"),
     ("a,many,2e9,3.1", "many"), ("a,7e6,2e9,3.1B", "3.1B"), ("a,~7e6,2e9,3.1", "~7e6"),
     ("a,7e6 or 8e6,2e9,3.1", "7e6 or 8e6"), ('a,"1,5B","1,234,567",3.1', "1,234,567")],
)  # fmt: skip
def test_a_cell_that_is_no_number_is_refused_by_its_line(tmp_path, row, cell):
    said = refusal(tmp_path, f"{HEAD}\n# a comment\n{row}\n")
    assert f", line 3: found {cell!r}; expected a number" in said
    assert "half-written" not in said


def test_a_line_of_other_cells_is_half_written_only_at_the_end(tmp_path):
    whole = "a,7e6,2e9,3.1\n"
    assert "line 3: found 2 cells" in (said := refusal(tmp_path, f"{HEAD}\n{whole}b,7e6\n{whole}"))
    assert "half-written" not in said
    assert "half-written" in refusal(tmp_path, f"{HEAD}\n{whole}b,7e6\n")
    assert "a line that is no CSV" in refusal(tmp_path, f'{HEAD}\na,"7e6,2e9,3.1\n')


def test_text_of_numbers_in_a_parquet_is_read_alike(tmp_path):
    table.write(tmp_path / "runs.parquet", [
        r | {"tokens": f"{r['tokens']:,}", "loss_text_nats_per_token": "3,25"} for r in rows()
    ])  # fmt: skip
    runs = table.read(tmp_path / "runs.parquet")
    np.testing.assert_array_equal(runs["tokens"], [r["tokens"] for r in rows()])
    assert (runs.loss("text") == 3.25).all()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.decimal128(20, 4)])
def test_numbers_as_other_libraries_write_them_to_parquet(tmp_path, kind):
    # Data frames write long strings, databases decimals: "values of type large_string".
    found = [r | {"loss_text_nats_per_token": 3.25} for r in rows()]
    made = pa.Table.from_pylist(found)
    for i, name in enumerate(made.column_names):
        if name in ("tokens", "loss_text_nats_per_token"):
            values = [str(r[name]) for r in found]
            if pa.types.is_decimal(kind):
                values = [decimal.Decimal(v) for v in values]
            made = made.set_column(i, name, pa.array(values, kind))
    pyarrow.parquet.write_table(made, tmp_path / "runs.parquet")
    runs = table.read(tmp_path / "runs.parquet")
    np.testing.assert_array_equal(runs["tokens"], [r["tokens"] for r in found])
    assert (runs.loss("text") == 3.25).all()


@given(st.integers(0, 10**15), st.sampled_from([",", ".", " ", "_", "'"]))
def test_thousands_apart_are_the_number(value, mark):
    cell = f"{value:,}".replace(",", mark)
    comma = mark == "."  # a point is a decimal mark unless commas are
    found, _ = cells.numbers([cell], "column tokens", [1], comma, True)
    assert found[0] == value


@given(st.floats(1e-3, 1e12), st.booleans())
def test_decimals_are_the_number_whatever_their_mark(value, counts):
    cell = f"{value:.6f}"
    for comma, shown in ((False, cell), (None, cell), (True, cell.replace(".", ","))):
        found, _ = cells.numbers([shown], "column x", [1], comma, counts)
        assert found[0] == float(cell)


def test_what_begins_with_nought_has_no_thousands_and_what_is_either_is_refused():
    """0.100B, among commas for points, was 1e11."""
    assert cells.numbers(["0.100B"], "t", [1], True, True)[0].tolist() == [1e8]
    with pytest.raises(UserError, match="1,125B"):
        cells.numbers(["1,125B"], "t", [1], None, True)
    assert cells.numbers(["1,125B"], "t", [1], True, True)[0].tolist() == [1.125e9]
    assert cells.numbers(["1,125"], "t", [1], None, True)[0].tolist() == [1125.0]


def test_a_header_behind_the_comment_mark_of_numpy():
    text = "# run_id,parameters,tokens,loss\na,1e9,2e10,3.2\n"
    found = cells.read(text, "t", ("run_id", "parameters", "tokens"))
    assert (found.names[:2], found.rows[0][0]) == (["run_id", "parameters"], "a")


HEADER = "run_id,parameters,tokens,loss_text_nats_per_token\n"


def sheet(tmp_path, text) -> table.Runs:
    (tmp_path / "sheet.csv").write_text(text)
    return table.read(tmp_path / "sheet.csv")


def test_a_spreadsheets_last_line_needs_no_end(tmp_path):
    text = HEADER + "a,1e9,2e10,3.25\nb,2e9,2e10,3.1"
    with pytest.raises(UserError, match=r"a last line without an end, its last cell '3\.1'"):
        sheet(tmp_path, text)
    assert sheet(tmp_path, text + "4")["loss_text_nats_per_token"].tolist() == [3.25, 3.14]
    turned = "run_id,loss_text_nats_per_token,parameters,tokens\na,3.25,1e9,2000\nb,3.14,2e9,20"
    with pytest.raises(UserError, match="its last cell '20'"):
        sheet(tmp_path, turned)
    with pytest.raises(UserError, match="its last cell '2000'"):  # of 20000, perhaps
        sheet(tmp_path, turned + "00")
    ended = "run_id,loss_text_nats_per_token,parameters,tokens,state\na,3.25,1e9,2000,done\n"
    assert sheet(tmp_path, ended + "b,3.14,2e9,20,done")["tokens"].tolist() == [2000, 20]


def test_ids_may_begin_as_comments_do(tmp_path):
    text = HEADER + "#1,1e9,2e10,3.25\n#2,2e9,2e10,3.14\n"
    assert list(sheet(tmp_path, text)["run_id"]) == ["#1", "#2"]
    assert list(sheet(tmp_path, "# of May\n" + text)["run_id"]) == ["#1", "#2"]
    left = sheet(tmp_path, text + "c,2e9,4e10,3.05\n")
    assert list(left["run_id"]) == ["c"]
    assert "2 comment lines were left out" in left.notes


def test_a_comma_behind_every_row_parts_nothing(tmp_path):
    text = HEADER + "a,1e9,2e10,3.25,\nb,2e9,2e10,3.14,\n"
    assert list(sheet(tmp_path, text)["run_id"]) == ["a", "b"]
