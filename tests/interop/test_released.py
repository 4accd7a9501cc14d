"""Every released layout is imported, drawn from, asked, fine-tuned, exported and verified."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from tests.interop import released
from tests.long import MARKS
from unijax.core import tree
from unijax.data import tokenizer as tokenizer_lib
from unijax.interop.systems.janus.processor import SYSTEM_PROMPT
from unijax.main.cli import main
from unijax.train import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
# What is our choice in configs/finetune.py, reduced to the small model.
SMALL = (
    "dtype=float32", "remat=none", "stage.steps=1", "data.rows=1", "data.row_length=128",
    "stage.optimizers.main.warmup_steps=0", "validation.batches=0", "validation.samples=0",
    "mesh.data=1", "mesh.fsdp=1", "loop.log_every=1", "loop.save_every=0", "loop.writers=jsonl",
)  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        # It differs from janus_1.3b_first by its pad, which those of Pro have too.
        pytest.param(name, marks=MARKS if name == "janus_1.3b" else ())
        for name in released.LAYOUTS
    ],
)
def imported(request, hf_model, tmp_path_factory):
    """Name of a layout, its directory, and the run that is imported of it."""
    base = tmp_path_factory.mktemp(request.param.replace(".", "_"))
    released.write_layout(request.param, hf_model, base / "source")
    assert main(["import", str(base / "source"), "--run-dir", str(base / "run")]) == 0
    return request.param, base / "source", base / "run"


def recorded(run_dir):
    return checkpoint.read_run(run_dir)["config"]["data"]


def test_it_records_what_the_source_does(imported):
    name, _, run = imported
    hf = released.FORMATS[name] == "hf"
    assert recorded(run) == {
        "template": released.TEMPLATES[name], "und_rounding": "round" if hf else "floor",
        "system_prompt": SYSTEM_PROMPT, "row_length": 4096,
    }  # fmt: skip


def test_ids_of_special_tokens_are_the_sources(imported):
    name, source, run = imported
    ours = tokenizer_lib.load(run / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(source)
    pad = released.EOS if name == "janus_1.3b_first" else released.PAD
    special = [released.BOS, released.EOS, pad, *released.IMAGE]
    s = ours.special
    ids = [s.bos, s.eos, s.pad, s.image_placeholder, s.boi, s.eoi]
    assert ids == theirs.convert_tokens_to_ids(special)
    roles = theirs.convert_tokens_to_ids(released.ROLES)
    if released.TEMPLATES[name] == "janus_pro":
        assert [ours.tokens[t] for t in released.ROLES] == roles


def test_it_draws_and_answers(imported, tmp_path, capsys):
    _, _, run = imported
    Image.new("RGB", (37, 100), "red").save(tmp_path / "red.png")
    drawn = ["--prompt", "a red cat", "-n", "1", "--out", str(tmp_path / "drawn")]
    assert main(["sample", str(run), *drawn]) == 0
    assert (tmp_path / "drawn" / "grid.png").is_file()
    asked = ["What is it?", "--image", str(tmp_path / "red.png"), "--max-tokens", "4"]
    assert main(["ask", str(run), *asked]) == 0


@pytest.fixture(scope="module")
def tuned(imported, tmp_path_factory):
    """A run of one step on a captioned picture."""
    name, _, run = imported
    folder = tmp_path_factory.mktemp(name.replace(".", "_") + "_tuned")
    Image.new("RGB", (20, 16), "red").save(folder / "red.png")
    line = {"image": "red.png", "caption": "a red picture"}
    (folder / "mine.jsonl").write_text(json.dumps(line) + "\n")
    config = ["--config", str(ROOT / "configs" / "finetune.py"), *SMALL]
    where = ["--data", str(folder / "mine.jsonl"), "--run-dir", str(folder / "run")]
    assert main(["finetune", "--init-from", str(run), *where, *config]) == 0
    return folder / "run"


def test_a_fine_tuned_run_goes_on_as_the_source_does(imported, tuned):
    _, _, run = imported
    before, after = recorded(run), recorded(tuned)
    assert (after["template"], after["und_rounding"]) == (
        before["template"], before["und_rounding"]
    )  # fmt: skip
    one, other = (tree.flatten(checkpoint.read_params(d)) for d in (run, tuned))
    moved = [p for p, x in one.items() if not np.array_equal(x, other[p].astype(x.dtype))]
    assert moved
    assert not any(p.startswith("vqmodel/") for p in moved)


def test_what_is_exported_equals_the_run_and_comes_back(imported, tuned, tmp_path):
    name, _, run = imported
    format = released.FORMATS[name]
    for i, directory in enumerate((run, tuned)):
        out = tmp_path / f"out{i}"
        assert main(["export", str(directory), str(out), "--format", format]) == 0
        assert main(["verify", str(directory), str(out)]) == 0
        assert main(["import", str(out), "--run-dir", str(tmp_path / f"again{i}")]) == 0
        again = recorded(tmp_path / f"again{i}")
        for key in ("template", "und_rounding"):
            assert again[key] == recorded(directory)[key]
        one, other = (
            tokenizer_lib.load(d / "tokenizer") for d in (directory, tmp_path / f"again{i}")
        )
        assert (one.special, one.tokens) == (other.special, other.tokens)
    card = (tmp_path / "out1" / "README.md").read_text(encoding="utf-8")
    assert f"1. Imported: `source`, in the format {format}." in card
    assert "2. Stage `finetune` (stage 3 of Janus-Pro on your own records), 1 steps." in card
    assert "| gen | 4 | mine.jsonl | generate | mixed | 1 |  |" in card


def test_the_other_format_keeps_the_template_too(imported, tmp_path):
    name, _, run = imported
    format = {"hf": "deepseek", "deepseek": "hf"}[released.FORMATS[name]]
    assert main(["export", str(run), str(tmp_path / "out"), "--format", format]) == 0
    assert main(["import", str(tmp_path / "out"), "--run-dir", str(tmp_path / "again")]) == 0
    assert recorded(tmp_path / "again")["template"] == released.TEMPLATES[name]
    assert recorded(tmp_path / "again")["system_prompt"] == SYSTEM_PROMPT
