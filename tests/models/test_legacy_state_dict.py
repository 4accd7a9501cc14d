"""State dicts of PyTorch before 1.6, damaged or malicious."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from unijax.models import efficientnet_lite
from unijax.models.efficientnet_lite import read_legacy_state_dict


class Storage:
    """Pickled as PyTorch has it: a persistent id."""

    def __init__(self, key: str):
        self.key = key


class Global:
    """Something that is pickled by its name."""

    def __init__(self, module: str, name: str):
        self.name = (module, name)


class Pickler(pickle._Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Global("torch", "FloatStorage"), obj.key, "cpu", 4)
        return None

    def save(self, obj, **more):
        if isinstance(obj, Global):
            module, name = obj.name
            self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
        elif isinstance(obj, Tensor):
            self.save(Global("torch._utils", "_rebuild_tensor_v2"))
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, **more)


class Tensor:
    def __init__(self, offset, shape, strides):
        self.arguments = (Storage("0"), offset, shape, strides, False, OrderedDict())


def file_of(
    offset, shape, strides, count: int | None = None, names: tuple[str, ...] = ("x",)
) -> io.BytesIO:
    """A file with one storage of four numbers, and tensors that show it."""
    file, values = io.BytesIO(), np.arange(4, dtype="<f4")
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump({n: Tensor(offset, shape, strides) for n in names})
    pickle.dump(["0"], file, protocol=2)
    file.write((len(values) if count is None else count).to_bytes(8, "little") + values.tobytes())
    file.seek(0)
    return file


def test_a_transposed_tensor_is_read():
    found = read_legacy_state_dict(file_of(0, (2, 2), (1, 2)))
    np.testing.assert_array_equal(found["x"], [[0, 2], [1, 3]])
    assert read_legacy_state_dict(file_of(4, (0, 2), (2, 1)))["x"].shape == (0, 2)
    np.testing.assert_array_equal(read_legacy_state_dict(file_of(3, (), ()))["x"], 3)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (2, 2), (1, 1000)),
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (4, (), ()),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2**33, 2**33), (0, 0)),
        (0, (2,), (2**62,)),
        (0, (2, 2), (1,)),
        (0, (1,) * 64, (1,) * 64),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (5, (0,), (1,)),
    ],
)
def test_no_memory_beside_the_storage_is_read(offset, shape, strides):
    """Strides went to `as_strided` as they were: memory of the heap came back, or a crash."""
    with pytest.raises(pickle.UnpicklingError):
        read_legacy_state_dict(file_of(offset, shape, strides))


def test_a_shape_of_lists_in_lists_is_not_written_out():
    """Two references each to the one before: a message of 2^40 words."""
    shape = (0,)
    for _ in range(40):
        shape = (shape, shape)
    with pytest.raises(pickle.UnpicklingError, match="x: shape "):
        read_legacy_state_dict(file_of(0, shape, (1, 1)))


def test_tensors_that_share_a_storage_do_not_fill_the_memory(monkeypatch):
    """Each is a copy of it: of a file of 100 MB, a thousand of them 100 GB."""
    monkeypatch.setattr(efficientnet_lite, "_MOST_BYTES", 31)
    assert read_legacy_state_dict(file_of(0, (4,), (1,)))["x"].nbytes == 16
    twice = file_of(0, (4,), (1,), names=("x", "y"))
    with pytest.raises(pickle.UnpicklingError, match="more than 31 bytes"):
        read_legacy_state_dict(twice)


@pytest.mark.parametrize("count", [5, 0, 2**40, 2**63])
def test_a_storage_that_claims_more_than_there_is_is_refused(count):
    with pytest.raises(pickle.UnpicklingError):
        read_legacy_state_dict(file_of(0, (2,), (1,), count))
