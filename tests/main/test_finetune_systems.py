"""Fine-tuning of every system that draws, from a run of its own: one command, one config."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.long import MARKS
from unijax.core import tree
from unijax.main.cli import main
from unijax.main.config import load
from unijax.main.run import make_system, resolve
from unijax.train.checkpoint import read_params

STEPS = ("loop.eval_every=0", "loop.save_every=0", "validation.samples=0", "loop.writers=jsonl")
SYSTEMS = ("chameleon", "transfusion", "lmfusion", "llavafusion", "metamorph", "emu", "metaquery")


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """Captioned pictures, and what to change of each."""
    folder = tmp_path_factory.mktemp("edits")
    lines = []
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
        lines.append({"image": f"{i}.png", "caption": f"a {colour} square"})
    for i in range(3):
        edit = {"input_image": f"{i}.png", "edited_image": f"{(i + 1) % 3}.png"}
        lines.append(edit | {"instruction": "take the next colour"})
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS) for name in SYSTEMS])
def test_a_finetuning_leaves_what_the_system_keeps(name, edits, tmp_path):
    config = load(f"configs/{name}_demo.py")
    before = [f"before.{one}.stage.steps=1" for one in config.get("before", {})]
    start, tuned = str(tmp_path / "start"), str(tmp_path / "tuned")
    words = ["--config", f"configs/{name}_demo.py", "--run-dir", start]
    assert main(["train", *words, "stage.steps=1", *STEPS, *before]) == 0
    words = ["--config", "finetune", "--init-from", start, "--data", str(edits)]
    few = ("stage.steps=2", "data.rows=2", "stage.optimizers.main.learning_rate=1e-3")
    assert main(["finetune", *words, "--run-dir", tuned, *few, *STEPS, "loop.log_every=1"]) == 0
    was, now = (tree.flatten(read_params(run)) for run in (start, tuned))
    keeps = make_system(resolve(config, [])).keeps
    changed = {path for path, x in was.items() if not np.array_equal(x, now[path])}
    assert changed
    assert not [path for path in changed if path.startswith(keeps)]
    log = (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in log)
