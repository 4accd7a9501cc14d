"""The editing stage of LMFusion and LLaVAFusion: a picture, what to change, what results."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.interop.conftest import write_run
from tests.interop.test_llavafusion import CONFIGS
from tests.interop.test_transfusion import TWINS
from tests.long import MARKS
from unijax.core import tree
from unijax.core.batch import Kind, Target
from unijax.core.record import to_json
from unijax.data import tokenizer as tokenizers
from unijax.data.loader import Loader
from unijax.interop.exporting import export_checkpoint
from unijax.main.config import load
from unijax.main.run import make_system, resolve
from unijax.main.train import train
from unijax.train.checkpoint import read_params

STAGES = {
    "lmfusion": ("configs/lmfusion.py:deep,0,edit", TWINS),
    "llavafusion": ("configs/llavafusion.py:edit", CONFIGS["parts"]),
}
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Folder of `edits.jsonl`, triples, and of `questions.jsonl`, about one of their pictures."""
    folder = tmp_path_factory.mktemp("edits")
    lines = []
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(folder / f"{i}.png")
        edit = {"input_image": f"{i}.png", "edited_image": f"{(i + 1) % len(COLOURS)}.png"}
        lines.append(json.dumps(edit | {"instruction": "take the next colour"}))
    (folder / "edits.jsonl").write_text("\n".join(lines))
    asked = {"image": "0.png", "question": "what is it?", "answer": "a red mat"}
    (folder / "questions.jsonl").write_text(json.dumps(asked))
    return folder


def stage(system: str, folder, start):
    """The shipped config over a small model in float32, whose data is in the folder."""
    spec, model = STAGES[system]
    config = load(spec).unlock()
    config.model = to_json(model, whole=True)
    config.tokenizer = str(start / "tokenizer")
    config.stage.steps = 24
    config.stage.optimizers.main.update(learning_rate=3e-3, warmup_steps=2)
    config.mesh = {}
    config.validation = {"batches": 0, "samples": 0}
    config.data.update(row_length=160, rows=2, slots={"image": 4}, template="janus", prefetch=1)
    config.data.groups[0]["sources"][0]["path"] = str(folder / "edits.jsonl")
    if system == "llavafusion":  # beside edits, pictures to read
        config.data.slots.und = 1
        path = str(folder / "questions.jsonl")
        source = {"name": "asked", "task": "question", "kind": "jsonl", "path": path}
        config.data.groups.append({"name": "und", "ratio": 0.2, "sources": [source]})
    config.loop = {"log_every": 1, "writers": ("jsonl",), "save_frozen": False}
    return resolve(config)


@pytest.mark.parametrize("system", STAGES)
def test_a_triple_is_a_clean_source_and_a_noised_result_and_what_is_asked_about_is_read(
    system, records, tmp_path
):
    start = write_run(tmp_path / "start", system, STAGES[system][1])
    run = stage(system, records, start)
    layout = make_system(run).layout
    batch = next(Loader(run.data, layout, tokenizers.load(run.tokenizer)))
    slots, n = batch.images["image"], run.model.num_tokens
    triples = 0
    for row in range(len(batch.tokens)):
        for document in range(1, int(batch.segment[row].max()) + 1):
            own = batch.segment[row] == document
            kinds = batch.kind[row][own]
            if (kinds == Kind.UND).any():
                assert system == "llavafusion"
                assert (kinds == Kind.UND).sum() == run.model.picture_tokens
                assert not (kinds == Kind.GEN).any()
                continue
            drawn = kinds == Kind.GEN
            at = dict.fromkeys(batch.tokens[row][own][drawn] // n)  # of slots, in order
            noise = [float(slots.t_max[row, slot]) for slot in at]
            dropped = len(noise) == 1  # no condition, for guidance
            assert noise == ([1.0] if dropped else [0.0, 1.0])
            learned = batch.target_kind[row][own] == Target.NOISE
            np.testing.assert_array_equal(np.flatnonzero(learned), np.flatnonzero(drawn)[-n:])
            triples += not dropped
    assert triples > 1


@pytest.mark.parametrize("system", ["llavafusion", pytest.param("lmfusion", marks=MARKS)])
def test_it_learns_and_what_is_frozen_goes_out_as_it_came_in(system, records, tmp_path):
    """In bfloat16 over a source in float32: to its bits, as checkpoints leave it where it was."""
    start = write_run(tmp_path / "start", system, STAGES[system][1])
    run, here = stage(system, records, start), tmp_path / "run"
    train(run, here, init_from=str(start))
    log = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == run.stage.steps
    assert np.isfinite(losses).all()
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    was, now = (tree.flatten(read_params(place)) for place in (start, here))
    keeps = make_system(run).keeps
    moved = {path.split("/")[0] for path, x in was.items() if not np.array_equal(x, now[path])}
    assert (
        moved
        == {"image_twin", "image_layers"}
        == {p.split("/")[0] for p in was} - {keep.rstrip("/") for keep in keeps}
    )
    for place in (start, here):
        export_checkpoint(place, tmp_path / f"{place.name}_out")
    before, after = (
        load_file(tmp_path / f"{x}_out" / "model.safetensors") for x in ("start", "run")
    )
    frozen = [name for name in before if name.startswith(tuple(k.replace("/", ".") for k in keeps))]
    assert any(name.startswith("language_model.layers.1.") for name in frozen)
    for name in frozen:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
