"""`unijax fit` and `report` from a table, and `ladder`."""

import json
import shutil

import pytest

from tests.main.test_cli import fails
from tests.scaling.test_table import rows
from unijax.core.errors import UserError
from unijax.main.cli import main
from unijax.main.scaling_report import report
from unijax.scaling import table


def write_table(tmp_path) -> str:
    table.write(tmp_path / "runs.parquet", rows())
    return str(tmp_path / "runs.parquet")


def test_fit_then_report(capsys, tmp_path):
    out = str(tmp_path / "fit")
    options = ["--draws", "40", "--loss", "code"]
    assert main(["fit", write_table(tmp_path), "--out", out, *options]) == 0
    assert "approach 3: N ~ C^0.5" in capsys.readouterr().out
    saved = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert [f["loss"] for f in saved["fits"]] == ["code"]
    for one in saved["fits"]:
        assert len(one["runs"]) == 20
        for value, low, high in one["constants"].values():
            assert low < value < high
        for slopes in one["exponents"].values():
            assert set(slopes) == {"a", "b"}
            assert slopes["a"][0] + slopes["b"][0] == pytest.approx(1)
    assert saved["choices"]["draws"] == 40
    assert main(["report", out, "--title", "T"]) == 0
    assert (tmp_path / "fit" / "report.html").read_text().startswith("<!doctype html>")


def test_what_was_read_otherwise_than_by_its_letters_is_said(capsys, tmp_path):
    head = "run_id,parameters,tokens,loss_text_nats_per_token\n"
    lines = [f"{r['run_id']},{r['non_embedding_parameters'] / 1e6}M,{r['tokens']},"
             f"{r['loss_text_nats_per_token']}\n" for r in rows()]  # fmt: skip
    (tmp_path / "runs.csv").write_text("# by hand\n" + head + "".join(lines))
    options = ["--out", str(tmp_path / "fit"), "--draws", "20", "--hold-out", "0"]
    assert main(["fit", str(tmp_path / "runs.csv"), *options]) == 0
    said = capsys.readouterr().out
    saved = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert saved["read"][0] == "1 comment lines were left out"
    assert "(multiplied out)" in saved["read"][1]
    assert all(f"read: {note}\n" in said for note in saved["read"])
    assert saved["fits"][0]["causes"] == []


def test_report_of_another_table_is_refused(capsys, tmp_path):
    out = tmp_path / "fit"
    options = ["--draws", "20", "--hold-out", "0", "--loss", "text"]
    assert main(["fit", write_table(tmp_path), "--out", str(out), *options]) == 0
    changed = rows()
    changed[0]["loss_text_nats_per_token"] *= 1.01
    table.write(out / "runs.parquet", changed)
    capsys.readouterr()  # the fit's progress bar
    assert "another table than was fitted" in fails(capsys, "report", str(out))
    assert not (out / "report.html").exists()


def test_nothing_is_left_of_a_fit_that_was_refused(capsys, tmp_path):
    table.write(tmp_path / "runs.csv", rows()[:4])
    out = tmp_path / "fit"
    said = fails(capsys, "fit", str(tmp_path / "runs.csv"), "--out", str(out))
    assert "4 to fit; expected at least 8" in said
    assert not out.exists()


@pytest.mark.parametrize("inside", ["", "fit"])
def test_a_fit_into_a_file_is_refused_before_it_is_made(capsys, tmp_path, inside, monkeypatch):
    # It was refused by a FileExistsError, after all the fitting.
    monkeypatch.setattr("unijax.main.fit.results", None)
    (tmp_path / "taken").write_text("mine")
    out = tmp_path / "taken" / inside
    said = fails(capsys, "fit", write_table(tmp_path), "--out", str(out))
    assert f"a file at {tmp_path / 'taken'}" in said
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted")
    options = ["--draws", "20", "--hold-out", "0", "--loss", "text"]
    assert main(["fit", write_table(path), "--out", str(path / "fit"), *options]) == 0
    return path / "fit"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: [1], "TypeError"),
        (lambda saved: saved | {"choices": saved["choices"] | {"colour": 1}}, "'colour'"),
        (lambda saved: {k: v for k, v in saved.items() if k != "fits"}, "'fits'"),
        (lambda saved: saved | {"choices": saved["choices"] | {"draws": 3}}, "fit.json: found"),
        (lambda saved: saved | {"fits": []}, "found no law"),
        (lambda saved: saved | {"fits": [{"constants": [1]}]}, "a broken file"),
        (lambda saved: saved | {"fits": [{"constants": {"E": []}}]}, "a broken file"),
    ],
)
def test_report_of_a_damaged_fit_is_refused_without_a_traceback(
    capsys, fitted, tmp_path, change, said
):
    saved = json.loads((fitted / "fit.json").read_text())
    shutil.copy(fitted / "runs.parquet", tmp_path)
    (tmp_path / "fit.json").write_text(json.dumps(change(saved)))
    capsys.readouterr()  # the fit's progress bar
    assert said in fails(capsys, "report", str(tmp_path))


def test_report_of_no_fit(capsys, tmp_path):
    assert "no fit.json" in fails(capsys, "report", str(tmp_path))


def test_report_of_a_fit_of_other_laws_is_refused(fitted, tmp_path):
    # Two laws beside one ended in a ValueError.
    saved = json.loads((fitted / "fit.json").read_text())
    shutil.copy(fitted / "runs.parquet", tmp_path)
    (tmp_path / "fit.json").write_text(json.dumps(saved | {"fits": 2 * saved["fits"]}))
    with pytest.raises(UserError, match="does not find again"):
        report(tmp_path, "T")


def test_ladder(capsys):
    assert main(["ladder", "transfusion", "--width", "4096"]) == 0
    assert "7B  width 4096" in capsys.readouterr().out
    assert "found 'nano'" in fails(capsys, "ladder", "nano")
