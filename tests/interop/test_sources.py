"""Files of weights: what is read, and what is said about damaged ones."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

from unijax.core.errors import UserError
from unijax.interop.safetensors_writer import SafetensorsWriter
from unijax.interop.sources import TorchSource, open_directory
from unijax.interop.table import TensorInfo


def some_tensors(rng):
    return {
        "layers.10.w": rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16),
        "layers.9.w": rng.normal(size=(3,)).astype(ml_dtypes.bfloat16),
        "head": rng.normal(size=(5, 2)).astype(np.float32),
        "half": rng.normal(size=(2, 2)).astype(np.float16),
    }


def write(directory, tensors, most=2**30):
    directory.mkdir(exist_ok=True)
    infos = {n: TensorInfo(x.shape, x.dtype) for n, x in tensors.items()}
    writer = SafetensorsWriter(directory, infos, most)
    for name in reversed(list(tensors)):  # any order will do
        writer.write(name, tensors[name])
    writer.close()


def to_torch(x):
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x)


def assert_same(source, tensors):
    assert source.tensors.keys() == tensors.keys()
    for name, x in tensors.items():
        got = source.read(name)
        assert got.dtype == x.dtype == source.tensors[name].dtype
        np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("most", [2**30, 40])
def test_written_safetensors_are_read_by_the_library_and_by_us(tmp_path, rng, most):
    tensors = some_tensors(rng)
    write(tmp_path / "m", tensors, most)
    assert_same(open_directory(tmp_path / "m"), tensors)
    seen = {}
    for file in sorted((tmp_path / "m").glob("*.safetensors")):
        with safe_open(file, framework="pt") as f:
            assert f.metadata() == {"format": "pt"}
            seen |= {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    assert {n: torch.equal(x, to_torch(tensors[n])) for n, x in seen.items()} == dict.fromkeys(
        tensors, True
    )
    if most == 40:
        index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == {
            "half": "model-00001-of-00003.safetensors",
            "head": "model-00002-of-00003.safetensors",  # 40 bytes of its own
            "layers.9.w": "model-00003-of-00003.safetensors",
            "layers.10.w": "model-00003-of-00003.safetensors",
        }
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())


def test_the_writer_casts_to_what_was_announced(tmp_path):
    writer = SafetensorsWriter(tmp_path, {"x": TensorInfo((2,), np.dtype(np.float32))}, 99)
    writer.write("x", np.array([1.5, 2], ml_dtypes.bfloat16))
    writer.close()
    np.testing.assert_array_equal(open_directory(tmp_path).read("x"), np.float32([1.5, 2]))


def test_the_writer_holds_its_caller_to_every_tensor_once(tmp_path):
    infos = {n: TensorInfo((2,), np.dtype(np.float32)) for n in "ab"}
    writer = SafetensorsWriter(tmp_path, infos, 99)
    writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(KeyError):
        writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(AssertionError, match="b"):
        writer.close()


def test_a_stray_index_beside_the_whole_file_is_not_read(tmp_path, rng):
    # transformers reads the whole file; the shards that the index names are gone.
    tensors = some_tensors(rng)
    write(tmp_path / "m", tensors, 2**30)
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"half": "model-00001-of-00002.safetensors"}}))
    assert_same(open_directory(tmp_path / "m"), tensors)


@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_bin(tmp_path, rng, sharded):
    tensors = some_tensors(rng)
    shards = [list(tensors)[:2], list(tensors)[2:]] if sharded else [list(tensors)]
    files = [
        f"pytorch_model-{i}.bin" if sharded else "pytorch_model.bin" for i in range(len(shards))
    ]
    for file, names in zip(files, shards):
        torch.save({n: to_torch(tensors[n]) for n in names}, tmp_path / file)
    if sharded:
        index = {"weight_map": {n: f for f, names in zip(files, shards) for n in names}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same(open_directory(tmp_path), tensors)


def test_files_are_opened_anew_after_a_while(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("unijax.interop.sources._REOPEN_AFTER", 30)
    tensors = some_tensors(rng)
    write(tmp_path / "m", tensors)
    assert_same(open_directory(tmp_path / "m"), tensors)
    torch.save({n: to_torch(x) for n, x in tensors.items()}, tmp_path / "pytorch_model.bin")
    assert_same(open_directory(tmp_path), tensors)


def refusal(directory):
    with pytest.raises(UserError) as error:
        open_directory(directory)
    return str(error.value)


def test_damaged_files_are_named(tmp_path, rng):
    assert "no weights" in refusal(tmp_path)
    write(tmp_path / "m", some_tensors(rng), 40)
    last = sorted((tmp_path / "m").glob("*.safetensors"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-5])
    text = refusal(tmp_path / "m")
    assert last.name in text
    assert f"(the file has {len(whole) - 5} bytes)" in text
    last.unlink()
    assert f"1 of 3 shards missing ({last.name})" in refusal(tmp_path / "m")
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text("{}")
    assert "no weight_map" in refusal(tmp_path / "m")
    index.unlink()
    file = tmp_path / "m" / "pytorch_model.bin"
    torch.save({"x": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-200])
    assert "a whole file of torch.save" in refusal(tmp_path / "m")
    torch.save({"x": {"y": torch.zeros(2)}}, file)
    assert "something else than named tensors" in refusal(tmp_path / "m")


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    torch.save({"x": Trap()}, tmp_path / "pytorch_model.bin")
    assert "a whole file of torch.save" in refusal(tmp_path)


def test_the_key_of_a_training_file(tmp_path):
    file = tmp_path / "vq.pt"
    torch.save({"model": {"x": torch.ones(2)}, "optimizer": {"lr": 0.1}}, file)
    np.testing.assert_array_equal(TorchSource("vq", [file], key="model").read("x"), [1, 1])
    with pytest.raises(UserError, match=r"\['model', 'optimizer'\]; expected a dict with 'ema'"):
        TorchSource("vq", [file], key="ema")
