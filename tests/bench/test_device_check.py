"""The check of a device: rehearsed from end to end, and nothing lost whatever a part does."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from bench import attention_tune
from bench.device_check import report, rows, runner
from bench.device_check.profile import part_of, paths
from bench.device_check.worker import PROMPT
from tests.long import long
from unijax.systems.janus import SIZES, Janus

ROOT = pathlib.Path(__file__).parent.parent.parent

# What a bare machine has: these and what they need themselves.
THERE = ("jax", "flax", "optax", "numpy")
BARE = '''
"""Of what is installed, all but some packages is as if it were not."""
import importlib.machinery, sys

HIDDEN = {hidden!r}
found = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in HIDDEN else found(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
'''


def needed(names: tuple[str, ...]) -> set[str]:
    """Distributions by normalised name, with all that they ask for."""
    found, ahead = set(), list(names)
    while ahead:
        name = re.sub(r"[-_.]+", "-", ahead.pop()).lower()
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            ahead += [re.match(r"[\w.\-]+", line)[0] for line in asked if "extra ==" not in line]
    return found


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """The environment of a machine that has nothing but those packages."""
    kept = needed(THERE) | {"unijax"}
    hidden = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in kept for owner in owners)
    }
    assert {"grain", "tensorflow_datasets", "clu", "jaxtyping", "torch", "ml_collections"} <= hidden
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BARE.format(hidden=hidden))
    return os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "JAX_PLATFORMS": "cpu"}


def test_its_parts_are_there_on_a_machine_with_four_packages(bare):
    """`tqdm` had come in by way of a line that is told once."""
    code = (
        "import importlib, sys; from bench.device_check import annotations; annotations.ensure()\n"
        "for name in sys.argv[1:]: importlib.import_module('bench.device_check.' + name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *runner.PARTS], env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@long
def test_a_machine_with_four_packages_can_be_checked(bare, tmp_path):
    out = tmp_path / "results.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "bench.device_check", "--small", "--seconds", "600", "--out", out],
        env=bare, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    results = report.read(out)
    assert not [r for r in results if "skipped" in r or "failed" in r]
    ended = {r["part"]: r["ended"] for r in results if "ended" in r}
    assert ended == dict.fromkeys(runner.PARTS, "done")
    by_name = {r["name"]: r for r in results if "name" in r}
    kernels = [r for r in results if r["part"] == "kernels" and "name" in r]
    assert len(kernels) == 2
    assert all(0 < r["gradient_error"] < r["tolerance"] for r in kernels)
    times = by_name["Janus 1B, ours"]
    assert 0 < times["forward_ms"] < times["both_ms"]
    assert 0 < times["pairs_of_visited_blocks"] < 1
    assert by_name["demo decoder: sizes"]["entry"]["implementation"] == "chunked"
    step, plan = by_name["step"], by_name["plan of the step"]
    assert step["applied"] == 1
    # Steps take the batches in turn; the plan is of their mean.
    assert step["true_tflop"] == pytest.approx(plan["true_tflop"], rel=0.3)
    assert sum(by_name["largest parts of the step"]["shares"].values()) <= 1.001
    assert by_name["drawing, 1"]["pictures_per_second"] > 0
    text = report.tables(results)
    assert all(f"**{part}**: done" in text for part in runner.PARTS)


def scripts(monkeypatch, **parts: tuple[float, str]) -> None:
    """Parts by name: their bounds, and what they run."""
    monkeypatch.setattr(runner, "PARTS", {name: bound for name, (bound, _) in parts.items()})
    source = f"def tell(x):\n    import json; print({PROMPT!r} + json.dumps(x), flush=True)\n"

    def command(part, seconds, folder, small):
        return [sys.executable, "-c", f"{source}left = {seconds}\n{parts[part][1]}"]

    monkeypatch.setattr(runner, "command", command)


def check(tmp_path, seconds: float) -> tuple[int, list[dict]]:
    out = tmp_path / "out.jsonl"
    status = runner.check(list(runner.PARTS), out, tmp_path / "folder", seconds, small=True)
    return status, report.read(out)


HANGS = """
import subprocess, time
tell({"name": "early"})
child = subprocess.Popen(["sleep", "600"])
tell({"name": "child", "pid": child.pid})
time.sleep(600)
"""


def test_a_part_that_hangs_is_ended_with_its_children_and_keeps_what_it_told(monkeypatch, tmp_path):
    scripts(monkeypatch, first=(2.0, HANGS), second=(2.0, "tell({'name': 'late'})"))
    began = time.monotonic()
    status, results = check(tmp_path, 4.0)
    assert status == 1
    assert time.monotonic() - began < 30
    names = [r.get("name") or r["ended"] for r in results]
    assert names == ["early", "child", "out of time", "late", "done"]
    state = pathlib.Path(f"/proc/{results[1]['pid']}/stat")
    assert not state.exists() or ") Z " in state.read_text()  # dead, if not yet buried


def test_a_part_that_fails_shows_its_last_words(monkeypatch, tmp_path):
    fails = "tell({'name': 'early'}); raise SystemError('no such kernel')"
    scripts(monkeypatch, first=(5.0, fails), second=(5.0, "tell({'name': 'late'})"))
    status, results = check(tmp_path, 60.0)
    assert status == 1
    assert [r.get("name") or r["ended"] for r in results] == ["early", "status 1", "late", "done"]
    assert "SystemError: no such kernel" in results[1]["talk"]


def test_what_a_part_leaves_falls_to_the_next(monkeypatch, tmp_path):
    scripts(monkeypatch, first=(20.0, ""), second=(20.0, "tell({'name': 'left', 'left': left})"))
    status, results = check(tmp_path, 40.0)
    assert status == 0
    assert 20 < results[1]["left"] <= 40


def test_a_wrong_result_is_told_by_the_status(monkeypatch, tmp_path):
    scripts(monkeypatch, first=(20.0, "tell({'name': 'kernel', 'ok': False})"))
    assert check(tmp_path, 20.0)[0] == 1


def test_the_bounds_are_eight_minutes():
    assert sum(runner.PARTS.values()) == 480


def test_rows_are_real_and_fit():
    """As the loader packs stage 3: nearly full, of all three kinds, within the slots."""
    layout = Janus(SIZES["janus_pro_1b"]).layout
    documents = rows.stored()
    assert len(documents) == rows.ROWS
    for some in documents:
        roles = [getattr(span, "role", "text") for d in some for span in d.spans]
        assert roles.count("und") <= 3
        assert roles.count("gen") <= 6
    batch = rows.batch(documents[:8], layout, 4096, {"und": 3, "gen": 6})
    assert (batch.kind > 0).mean() > 0.85
    assert batch.images["und"].weight.sum() == (batch.kind == 2).sum() / 576
    assert batch.images["gen"].weight.sum() == (batch.kind == 3).sum() / 576


def test_a_place_in_a_program_is_a_part_of_the_model():
    text = '  %fusion.3 = f32[2]{0} fusion(%a), metadata={op_name="jit(f)/transpose(jvp(Llama))/'
    text += 'while/body/layers/mlp/dot_general" source_file="x.py"}\n  %copy = f32[2] copy(%b)\n'
    found = paths(text)
    assert set(found) == {"fusion.3"}
    assert part_of(found["fusion.3"]) == "layers/mlp, backward"
    assert part_of("jit(f)/Llama/layers/self_attn/exp") == "layers/self_attn"


def test_a_cut_file_is_read_and_written_into_the_page(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(attention_tune, "write", kept.extend)
    entry = dict(
        implementation="mosaic_gpu", device="NVIDIA H200", dtype="bfloat16", head_dim=128,
        sizes={"block": 128, "block_backward": 64}, how="tuned: here",
    )  # fmt: skip
    first = {"part": "device", "name": "device", "device": "NVIDIA H200", "date": "2026-12-01"}
    told = [
        first | {"versions": {"jax": "0.11.2"}},
        {"part": "blocks", "name": "Janus 1B: sizes", "entry": entry, "error": 0.002},
        {"part": "blocks", "name": "other: sizes", "entry": entry, "error": 1.0, "ok": False},
    ]
    file, page = tmp_path / "results.jsonl", tmp_path / "device.md"
    file.write_text("".join(json.dumps(r) + "\n" for r in told) + '{"part": "blo')
    page.write_text("# A page\n\n<!-- results -->\nNone.\n<!-- end of results -->\nend\n")
    report.write(report.read(file), page)
    text = page.read_text()
    assert text.startswith("# A page\n\n<!-- results -->\n2026-12-01, NVIDIA H200, jax 0.11.2.\n")
    assert text.endswith("<!-- end of results -->\nend\n")
    assert "| Janus 1B: sizes | 0.002 |" in text
    assert "**blocks**: cut off." in text
    assert [e.sizes["block"] for e in kept] == [128]
