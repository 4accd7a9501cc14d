"""Checkpoints that stay, that are damaged, that cannot be written, and on another mesh."""

import errno
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import devices
from tests.logs import events, lines
from tests.train.test_loop import run, same_bits
from tests.train.toy import Toy, toy_stage
from unijax.core.errors import UserError
from unijax.parallel.sharding import MeshConfig, make_mesh
from unijax.train import checkpoint, loop, setup
from unijax.train.checkpoint import Checkpoints, read_params
from unijax.train.checksum import checksums
from unijax.train.writers import Writers

STAGE = toy_stage(ema_decay=0.9)


def steps(run_dir: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in (run_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with checkpoints of steps 5, 10 and 15, and its end at 20."""
    place = tmp_path_factory.mktemp("whole")
    run(place / "run", STAGE, save_every=5, stop_at=15)
    return place / "run", run(place / "end", STAGE, save_every=5)


def test_the_newest_and_every_so_many_stay(tmp_path):
    run(tmp_path, save_every=2, log_every=1, keep=2, keep_every=6)
    assert steps(tmp_path) == [6, 12, 18, 20]


def kinds(run_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """A file of every kind of the newest checkpoint, by item and name; hashed names are one."""
    found = {}
    newest = run_dir / "checkpoints" / "15"
    for path in sorted(newest.rglob("*")):
        if path.is_file():
            parts = path.relative_to(newest).parts
            name = "d/*" if parts[-2:-1] == ("d",) else parts[-1]
            found.setdefault("/".join([*parts[:1], name]), path.relative_to(run_dir))
    return found


DAMAGES = {
    "cut": lambda file, content: file.write_bytes(content[: len(content) // 2]),
    "emptied": lambda file, content: file.write_bytes(b""),
    "gone": lambda file, content: file.unlink(),
    "changed": lambda file, content: file.write_bytes(
        content[: len(content) // 2]
        + bytes(x ^ 0x10 for x in content[len(content) // 2 :][:1])
        + content[len(content) // 2 + 1 :]
    ),
}


def test_damage_to_any_kind_of_file_is_noticed_or_does_not_matter(whole, tmp_path):
    """What is restored is what was saved, of the newest step or, told, of the one before."""
    source, _ = whole
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    trainer = setup.build(Toy(), STAGE, mesh, "data", jnp.float32, seed=3)
    like = checkpoint.abstract(trainer.begin(trainer.init(7)))

    def restored(place):
        told = []
        checkpoints = Checkpoints(place, keep=3)
        state, saved = checkpoints.restore(
            like, trainer.rules, lambda saved: None, lambda step, error: told.append(step)
        )
        checkpoints.close()
        assert saved["step"] == int(state.step)
        return state, told

    newest, told = restored(source)
    assert (int(newest.step), told) == (15, [])
    shutil.copytree(source, tmp_path / "before")
    shutil.rmtree(tmp_path / "before" / "checkpoints" / "15")
    before, _ = restored(tmp_path / "before")
    noticed = set()
    for kind, path in kinds(source).items():
        for damage, inflict in DAMAGES.items():
            place = tmp_path / f"{kind.replace('/', '_')}_{damage}"
            shutil.copytree(source, place)
            inflict(place / path, (place / path).read_bytes())
            state, told = restored(place)
            assert told in ([], [15]), (kind, damage)
            assert same_bits(state, before if told else newest), (kind, damage)
            assert steps(place) == ([5, 10] if told else [5, 10, 15])
            if told:
                assert (place / "damaged" / "15").is_dir()
                noticed.add(f"{kind} {damage}")
    for damage in ("cut", "emptied", "gone"):
        for item in ("params", "optimizer", "ema"):
            assert f"{item}/d/* {damage}" in noticed
        assert f"run/metadata {damage}" in noticed


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(whole, tmp_path, capsys):
    source, end = whole
    shutil.copytree(source, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "15" / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert same_bits(run(tmp_path / "run", STAGE, save_every=5), end)
    (event,) = events(tmp_path / "run")
    assert (event["event"], event["step"]) == ("damaged", 15)
    assert "step 15: a checkpoint that cannot be read" in capsys.readouterr().err
    assert steps(tmp_path / "run") == [10, 15, 20]


def test_values_that_are_not_what_was_saved_are_noticed(whole, tmp_path):
    """As from a disk or a memory that errs: files that can be read, of other numbers."""
    shutil.copytree(whole[0], tmp_path / "run")
    item = tmp_path / "run" / "checkpoints" / "15" / "params"
    with ocp.StandardCheckpointer() as files:
        params = files.restore(item)
        params["head"]["kernel"] = params["head"]["kernel"].at[3, 0].add(1e-6)
        shutil.rmtree(item)
        files.save(item, params)
    assert same_bits(run(tmp_path / "run", STAGE, save_every=5), whole[1])
    (event,) = events(tmp_path / "run")
    assert "other values than were saved in params/head/kernel" in event["message"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"drawn": 15', '"drawn": 14'),
        ('"data":', '"dada":'),
        ('"stage": "toy"', '"stage": "toi"'),
        ('"checksums":', '"checksumz":'),
        ('"schema": 3', '"schema": 4'),
        ('"digest":', '"digezt":'),
    ],
)
def test_a_description_that_is_not_what_was_saved_is_noticed(whole, tmp_path, right, wrong):
    """JSON that can be read, of another place in the data: documents were seen twice."""
    shutil.copytree(whole[0], tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "15" / "run" / "metadata"
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong))
    assert same_bits(run(tmp_path / "run", STAGE, save_every=5), whole[1])
    (event,) = events(tmp_path / "run")
    assert (event["event"], event["step"]) == ("damaged", 15)


def test_where_none_is_whole_the_run_stops_and_all_stay(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for file in (tmp_path / "run").rglob("manifest.ocdbt"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"15: found a checkpoint that cannot be read"):
        run(tmp_path / "run", STAGE)
    assert steps(tmp_path / "run") == [5, 10, 15]
    with pytest.raises(UserError, match="a checkpoint that cannot be read"):
        read_params(tmp_path / "run")


def murmur(x: int) -> int:
    """The finalizer of MurmurHash3, word by word."""
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_blocks_that_changed_places_are_noticed():
    """A sum over odd multiples of places did not see it in masters that hold bfloat16 values."""
    values = np.random.default_rng(0).standard_normal((512, 1024))
    x = jnp.asarray(values, jnp.bfloat16).astype(jnp.float32)
    swapped = jnp.concatenate([x[64:128], x[:64], x[128:]])
    assert checksums({"x": x}) != checksums({"x": swapped})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_checksum_finds_any_element_that_differs(data):
    dtype = data.draw(st.sampled_from([np.float32, jnp.bfloat16, np.int32, np.int8]))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3)))
    size = np.dtype(dtype).itemsize
    count = int(np.prod(shape)) * size
    content = bytearray(data.draw(st.binary(min_size=count, max_size=count)))

    def of(content):
        return checksums({"x": jnp.asarray(np.frombuffer(bytes(content), dtype).reshape(shape))})

    before = of(content)
    bits = np.frombuffer(bytes(content), f"u{size}").astype(np.uint64)
    terms = [murmur(int(b) ^ murmur(place)) for place, b in enumerate(bits)]
    assert list(before.values()) == [sum(terms) % 2**32]
    at = data.draw(st.integers(0, count - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    assert of(content) != before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB, filled but for so many bytes by calling it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not permitted")

    def fill(leave: int) -> None:
        (place / "filler").unlink(missing_ok=True)
        free = shutil.disk_usage(place).free
        (place / "filler").write_bytes(b"x" * (free - leave))

    yield place, fill
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_costs_neither_the_run_nor_the_last_checkpoint(
    small_disk, tmp_path, monkeypatch, foreseen
):
    """Full from step 6 to 12; unforeseen, as with a quota, the writing itself fails."""
    place, fill = small_disk
    if not foreseen:
        monkeypatch.setattr(checkpoint.Checkpoints, "_check_room", lambda *args: None)
    kept = []

    def look(state, step, writers):
        if step == 5:
            jax.block_until_ready(state)
            while not (place / "run" / "checkpoints" / "5" / "_CHECKPOINT_METADATA").exists():
                pass
            fill(leave=0)
        if step == 10:
            kept.append(read_params(place / "run"))
            (place / "filler").unlink()

    disk = {"save_every": 5, "eval_every": 5, "evaluators": {"look": look}}
    state = run(place / "run", STAGE, **disk)
    run(tmp_path / "whole", STAGE, stop_at=5, save_every=5)
    assert same_bits(kept[0], read_params(tmp_path / "whole"))
    assert same_bits(state, run(tmp_path / "end", STAGE))
    assert steps(place / "run") == [5, 15, 20]
    assert [row["step"] for row in lines(place / "run")] == [5, 10, 15, 20]


@pytest.mark.parametrize("name", ["jsonl", "tensorboard"])
def test_a_full_disk_neither_stops_nor_blocks_the_log(small_disk, name, capsys):
    place, fill = small_disk
    writers = Writers([name], place, 0)
    writers.scalars(1, {"loss": 1.0})
    fill(leave=0)
    for step in range(2, 1000):
        writers.scalars(step, {"loss": 1.0})
    if name == "jsonl":
        assert capsys.readouterr().err.count("No space left on device") == 1
        (place / "filler").unlink()
        writers.scalars(1000, {"loss": 1.0})
        assert [row["step"] for row in lines(place)] == list(range(1, 1001))
    writers.close()


def test_at_the_end_of_a_run_a_full_disk_is_waited_for(tmp_path, monkeypatch, capsys):
    tried = []
    save = ocp.CheckpointManager.save

    def full_twice(self, step, *args, **kwargs):
        tried.append(step)
        if len(tried) < 3:
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")
        return save(self, step, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full_twice)
    monkeypatch.setattr(loop, "_LAST_PAUSE", 0.01)
    run(tmp_path, STAGE)
    assert tried == [20] * 3
    assert steps(tmp_path) == [20]
    assert [event["event"] for event in events(tmp_path)] == ["not_saved"] * 2
    assert "No space left on device); tried again" in capsys.readouterr().err


def test_a_disk_that_stays_full_ends_the_run_with_a_word_and_no_half_checkpoint(
    tmp_path, monkeypatch
):
    half = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"

    def save(*args, **kwargs):
        half.mkdir(exist_ok=True)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    monkeypatch.setattr(loop, "_LAST_PAUSE", 0.01)
    with pytest.raises(UserError, match=r"Read-only file system.*resumes from step 0"):
        run(tmp_path, STAGE)
    assert not half.exists()


def test_an_error_that_is_not_of_the_disk_is_not_passed_over(tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise TypeError("a bug")

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(TypeError, match="a bug"):
        run(tmp_path, STAGE, save_every=5)


def test_any_mesh_and_table_restores_equal_arrays(tmp_path):
    devices.run("tests.train.checkpoint_devices", str(tmp_path), fast=False)
