"""Tables of encoders' outputs."""

import json
import os

import numpy as np
import pytest

from unijax.core.system import Encoded
from unijax.data.config import DataConfig
from unijax.data.document import ImageRef
from unijax.data.prepare import Preparation
from unijax.models.llama import LlamaConfig
from unijax.models.siglip import SiglipConfig
from unijax.systems.llava import Llava, LlavaConfig
from unijax.train import cache


def test_two_jobs_that_make_one_table_at_the_same_time_both_get_it(tmp_path):
    # The second to end found the directory there and failed.
    refs = {f"k{i}": ImageRef(f"r{i}", np.full((2, 2, 3), i, np.uint8)) for i in range(3)}
    params = {"w": np.array(2, np.float32)}

    def encode(params, x):
        return params["w"] * x.astype(np.float32).sum(axis=(1, 2, 3))

    reads = []

    def read(ref):
        reads.append(ref)
        if len(reads) == 2:  # in the midst of it
            cache.table(tmp_path, "und", params, encode, lambda r: r.raw, refs, "")
        return ref.raw

    made = cache.table(tmp_path, "und", params, encode, read, refs, "")
    assert [float(made(k)) for k in sorted(refs)] == [0.0, 24.0, 48.0]
    assert len(list(tmp_path.iterdir())) == 1


def values(folder) -> list[float]:
    refs = {f"k{i}": ImageRef(f"r{i}", np.full((2, 2, 3), i, np.uint8)) for i in range(3)}
    params = {"w": np.array(2, np.float32)}

    def encode(params, x):
        return params["w"] * x.astype(np.float32).sum(axis=(1, 2, 3))

    made = cache.table(folder, "und", params, encode, lambda ref: ref.raw, refs, "")
    return [float(made(k)) for k in sorted(refs)]


def permute(file):
    keys = json.loads(file.read_text())
    file.write_text(json.dumps(dict(zip(keys, reversed(keys.values())))))


DAMAGES = {
    "zeroed values": ("values.npy", lambda f: np.save(f, np.zeros(3, np.float32))),
    "cut values": ("values.npy", lambda f: f.write_bytes(f.read_bytes()[:-5])),
    "no values": ("values.npy", lambda f: f.unlink()),
    "permuted keys": ("keys.json", permute),
    "cut keys": ("keys.json", lambda f: f.write_text("{")),
    "no keys": ("keys.json", lambda f: f.unlink()),
    "no sums": ("sums.json", lambda f: f.unlink()),
    "other sums": ("sums.json", lambda f: f.write_text("[[1]]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_noticed_and_made_anew(tmp_path, damage, capsys):
    """Zeroed values and permuted keys trained on in silence, to other losses."""
    assert values(tmp_path) == [0.0, 24.0, 48.0]
    (place,) = tmp_path.iterdir()
    name, inflict = DAMAGES[damage]
    inflict(place / name)
    assert values(tmp_path) == [0.0, 24.0, 48.0]
    assert "it is made anew" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [place]


def test_halves_of_tables_are_swept_when_nobody_wrote_to_them_for_a_day(tmp_path):
    old, new = tmp_path / ".und-1234.0123abcd.half", tmp_path / ".gen-1234.89abcdef.half"
    for half in (old, new):
        half.mkdir()
        (half / "values.npy").write_text("half")
    for path in (old, old / "values.npy"):
        os.utime(path, (1e9, 1e9))
    values(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_slots_that_no_source_fills_have_no_table(tmp_path):
    """Of a stage that draws alone, with a tower for what others show."""
    text = LlamaConfig(48, 32, 48, 1, 4, 2, 8)
    system = Llava(LlavaConfig(text, SiglipConfig(8, 4, 16, 32, 1, 2), begins=True))
    data = DataConfig(groups=(), row_length=16, rows=1, slots={"und": 1})
    assert cache.tables(system, {"vision_model": {}}, data, [], tmp_path) == {}
    assert not list(tmp_path.iterdir())


def test_pictures_that_are_prepared_otherwise_have_a_table_of_their_own(tmp_path):
    """The table of padded pictures stood for cropped ones, and its checksums held."""
    rng = np.random.default_rng(0)
    refs = {"k": ImageRef("r", rng.integers(0, 256, (16, 8, 3), np.uint8))}

    class Means(Llava):
        def encode_und(self, params, pixels):
            return (pixels.mean((1, 2)) + 1) * 127.5

    system = Means(LlavaConfig(LlamaConfig(8, 8, 8, 1, 1, 1, 8), SiglipConfig(8, 4, 8, 8, 1, 1)))
    how = Encoded("vision_model", "features", (3,), "float32", "encode_und")
    means = []
    for resize in ("pad", "centre"):
        read = Preparation(8, resize)
        made = cache._cached(system, {"vision_model": {}}, "und", how, read, refs, tmp_path).lookup
        np.testing.assert_allclose(made("k"), read(refs["k"]).mean((0, 1)), rtol=1e-5)
        means.append(made("k"))
    assert np.abs(means[0] - means[1]).max() > 1
