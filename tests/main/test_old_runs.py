"""Run directories of earlier forms still open, sample, export and resume."""

import json

import jax
import pytest

from tests.main import tiny
from unijax.core.errors import UserError
from unijax.interop.exporting import export_checkpoint
from unijax.main.run import resolve
from unijax.main.train import train
from unijax.main.use import open_sampler
from unijax.train.checkpoint import digest_of, read_run, step_directory

# As version 0.1 wrote them.
STREAMS = {
    "und": {"size": 16, "tokens": 16, "slots": 3},
    "gen": {"size": 16, "tokens": 16, "slots": 3},
}


def made_old(run_dir) -> None:
    """Rewrites the description of the newest checkpoint as schema 2 had it."""
    place = step_directory(run_dir) / "run" / "metadata"
    run = json.loads(place.read_text())
    del run["digest"]
    assert run.pop("schema") == 3
    assert run["config"]["data"].pop("slots") == {"und": 3, "gen": 3}
    run["config"]["data"] |= STREAMS
    run["data"]["fingerprint"] = "0123456789ab"
    run = {"schema": 2} | run
    place.write_text(json.dumps(run | {"digest": digest_of(run)}))


def test_a_run_of_streams_with_sizes_resumes_to_the_bit(whole, tmp_path):
    run = resolve(tiny.get_config())
    train(run, tmp_path, stop_at=13)
    made_old(tmp_path)
    resumed = train(run, tmp_path)
    for a, b in zip(*map(jax.tree.leaves, map(jax.device_get, (whole[1], resumed))), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("old")
    train(resolve(tiny.get_config()), run_dir, stop_at=2)
    made_old(run_dir)
    return run_dir


def test_it_does_not_resume_with_other_data(old):
    with pytest.raises(UserError, match=r"checkpoints of a run with data\.row_length=128"):
        train(resolve(tiny.get_config(), ["data.row_length=160"]), old)


def test_it_samples_and_exports(old, tmp_path):
    assert resolve(read_run(old)["config"]).data.slots == {"und": 3, "gen": 3}
    assert open_sampler(old).draw(["a red fox"]).shape == (1, 1, 16, 16, 3)
    export_checkpoint(old, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()
