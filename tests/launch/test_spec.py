"""Which runs a description stands for."""

import pytest

from tests.launch.cases import CASES, LADDER, SWEEP
from unijax.core.errors import UserError
from unijax.launch.engines import render
from unijax.launch.spec import expand
from unijax.main.launching import build_launch


def test_a_sweep_is_every_combination_with_short_names():
    runs = expand(build_launch(SWEEP))
    assert [run.name for run in runs] == [
        "learning_rate-0.0001_seed-0", "learning_rate-0.0001_seed-1",
        "learning_rate-0.0003_seed-0", "learning_rate-0.0003_seed-1",
    ]  # fmt: skip
    assert [run.job for run in runs] == [f"lr-sweep-{i}" for i in range(4)]
    assert runs[3].argv == (
        "unijax", "train", "--config", "configs/janus_pro.py:1b,stage2",
        "--init-from", "/data/runs/stage1",
        "--run-dir", "/data/runs/lr-sweep/learning_rate-0.0003_seed-1",
        "data.rows=64", "stage.optimizers.main.learning_rate=0.0003", "seed=1",
    )  # fmt: skip


def test_runs_have_options_before_their_directory_and_changes_behind_it():
    small, large = expand(build_launch(LADDER))
    assert small.name == "1b"
    assert large.argv == (
        "unijax", "train", "--config=configs/janus_pro.py:7b,stage2",
        "--run-dir", "/data/runs/ladder/7b", "data.rows=128",
    )  # fmt: skip


def test_keys_that_end_alike_keep_what_tells_them_apart():
    sweep = {"stage.optimizers.main.learning_rate": [1], "stage.optimizers.d.learning_rate": [2]}
    (run,) = expand(build_launch(SWEEP | {"sweep": sweep}))
    assert run.name == "main.learning_rate-1_d.learning_rate-2"


def test_values_are_written_as_the_trainer_reads_them():
    sweep = {"cache_frozen": [True], "loop.writers": [["jsonl", "wandb"]], "remat": ["full"]}
    (run,) = expand(build_launch(SWEEP | {"sweep": sweep}))
    assert run.argv[-3:] == ("cache_frozen=true", "loop.writers=jsonl,wandb", "remat=full")
    assert run.name == "cache_frozen-true_writers-jsonl-wandb_remat-full"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "LR sweep"}, "name: found 'LR sweep'"),
        ({"directory": "runs"}, "directory: found 'runs'"),
        ({"sweep": {"seed": 3}}, "sweep.seed: found 3"),
        ({"sweep": {"seed": []}}, "sweep.seed: found []"),
        ({"sweep": {"remat": ["a b", "a-b"]}}, "several runs named 'remat-a-b'"),
        ({"machines": {"tpu": "v5p:4x4x8", "hosts": 2}}, "tpu: found 'v5p:4x4x8' beside hosts"),
        ({"machines": {"gpus": 8, "processes": 3}}, "processes: found 3 beside gpus=8"),
        ({"machines": {"slices": 2}}, "slices: found 2 without tpu"),
        ({"runs": {"../a": []}}, "runs: found '../a'"),
        ({"machine": {}}, "Did you mean 'machines'?"),
        ({"tpu": {"capacity": "cheap"}}, "tpu.capacity: found 'cheap'"),
        ({"machines": {"gpus": -2}}, "machines.gpus, cpus, memory_gib: found less than 0"),
        ({"retry": {"node": -1}}, "retry.node: found -1"),
        ({"slurm": {"hours": 0}}, "slurm: found hours 0 and warning_seconds 300"),
        ({"slurm": {"warning_seconds": -3}}, "slurm: found hours 24 and warning_seconds -3"),
        ({"env": {"A B": "1"}}, "env: found 'A B'"),
        ({"runs": {"launch": []}}, "runs: found 'launch'; expected another name"),
        ({"slurm": {"partition": "gpu\nrm -r x"}}, "slurm.partition: found 'gpu\\nrm -r x'"),
        ({"slurm": {"options": ["a", "b\n"]}}, "slurm.options.1: found"),
        ({"workdir": "/a\nb"}, "workdir: found"),
    ],
)
def test_mistakes_are_told(changes, said):
    with pytest.raises(UserError) as e:
        expand(build_launch(SWEEP | changes))
    assert said in str(e.value)


def test_a_change_mends_what_a_file_has_wrong():
    launch = build_launch(SWEEP | {"workdir": "/a\nb"}, ["workdir=/tmp"])
    assert launch.workdir == "/tmp"
    with pytest.raises(UserError, match="workdir: found"):
        build_launch(SWEEP | {"workdir": "/a\nb"}, ["name=x"])


def test_runs_of_a_launch_may_lie_in_a_bucket_where_the_engine_writes_nothing_there():
    """Its two strokes became one, a folder of the machine."""
    launch = build_launch(LADDER | {"directory": "gs://bucket/ladder/"})
    _, large = expand(launch)
    assert large.directory == "gs://bucket/ladder/7b"
    assert large.argv[3:5] == ("--run-dir", "gs://bucket/ladder/7b")
    for engine, machines in (("gke", CASES["gke_tpu"]), ("tpu", CASES["tpu"])):
        values = machines[1] | {"directory": launch.directory}
        assert "gs://bucket/ladder/7b" in "".join(render(build_launch(values), engine).values())
    for engine in ("slurm", "local"):
        with pytest.raises(UserError, match=r"directory: found 'gs://bucket/ladder/'; .* its logs"):
            render(launch, engine)
