"""The tables of docs/plan.md: a line a program, in order, the newest in place of the old."""

import pathlib

import pytest

from bench import plan_all
from tests.main.test_plan import a_plan

EMPTY = "# Plans\n" + "".join(f"\n<!-- {t} -->\n<!-- end of {t} -->\n" for t in plan_all.HEADS)


@pytest.fixture
def docs(tmp_path, monkeypatch) -> pathlib.Path:
    path = tmp_path / "plan.md"
    path.write_text(EMPTY)
    monkeypatch.setattr(plan_all, "DOCS", path)
    return path


def lines(docs: pathlib.Path) -> list[str]:
    return [x for x in docs.read_text().splitlines() if x.startswith("| ")]


def test_lines_are_replaced_by_what_is_computed_anew(docs):
    for name, fits in (("b", True), ("a", False), ("b", False)):
        plan_all.put("configs", f"| `{name}` ", plan_all.config_line(name, a_plan(fits)))
    head, first, second = lines(docs)
    assert head.startswith("| config ")
    assert first == plan_all.config_line("a", a_plan(False))
    assert second == plan_all.config_line("b", a_plan(False))
    assert "**no** Used 99G of 95G hbm" in second
    assert docs.read_text().endswith("<!-- scaling -->\n<!-- end of scaling -->\n")


def test_scaling_is_in_the_order_of_chips(docs):
    for chips in ("v5p:4x4x8", "h100:8*4", "v5p:2x2x2", "h100:8"):
        key = f"| 7B, 1 | `{chips}` | "
        line = plan_all.scaling_line(key, a_plan(True), "v5p:2x2x1")
        plan_all.put("scaling", key, line)
    _, *found = lines(docs)
    order = [line.split("`")[1] for line in found]
    assert order == ["h100:8", "h100:8*4", "v5p:2x2x2", "v5p:4x4x8"]
    assert all("40% to" in line for line in found)


def test_the_shipped_page_has_the_tables():
    text = pathlib.Path("docs/plan.md").read_text()
    for table in plan_all.HEADS:
        assert f"<!-- {table} -->" in text
        assert f"<!-- end of {table} -->" in text
