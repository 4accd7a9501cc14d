"""Batches of single pictures: order, shares, processes, resuming, captions, errors."""

import hashlib
import json

import numpy as np
import pytest

from tests.data.conftest import png
from unijax.core.errors import UserError
from unijax.core.masking import Masking
from unijax.data import images
from unijax.data.batch import Cached
from unijax.data.block_mask import block_mask
from unijax.data.config import SourceConfig
from unijax.data.pictures import PictureConfig, PictureLoader
from unijax.data.random_crop import random_crop

WHOLE = {"cat", *(f"{word} {i}" for i in range(10) for word in ("picture", "number"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten pictures in a JSONL file, six in a folder."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(10):
        (root / f"{i}.png").write_bytes(png(rng))
        lines.append({"image": f"{i}.png", "captions": [f"picture {i}", f"number {i}"]})
    (root / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "folder" / "cat").mkdir(parents=True)
    for i in range(6):
        (root / "folder" / "cat" / f"{i}.png").write_bytes(png(rng))
    return root


def config(data, **changes) -> PictureConfig:
    settings = {
        "sources": (
            SourceConfig("lines", "describe", "jsonl", str(data / "data.jsonl"), weight=3.0),
            SourceConfig("cats", "describe", "folder", str(data / "folder"), weight=1.0),
        ),
        "size": 16,
        "batch": 8,
    }
    return PictureConfig(**(settings | changes))


def known(data) -> dict[bytes, str]:
    paths = [*data.glob("*.png"), *data.glob("folder/cat/*.png")]
    return {
        images.for_generation(images.decode(p.read_bytes(), "", 10**6), 16).tobytes(): str(
            p.relative_to(data)
        )
        for p in paths
    }


def test_pictures_come_by_weight_and_each_once_an_epoch(data):
    loader, names = PictureLoader(config(data), None), known(data)
    seen = []
    for _ in range(10):
        batch = next(loader)
        assert batch.pixels.shape == (8, 16, 16, 3)
        assert batch.pixels.dtype == np.uint8
        assert batch.text is None
        np.testing.assert_array_equal(batch.weight, np.ones(8, np.float32))
        seen += [names[pixels.tobytes()] for pixels in batch.pixels]
    lines = [name for name in seen if "folder" not in name]
    assert len(lines) == 60
    for epoch in range(6):
        assert len(set(lines[10 * epoch : 10 * epoch + 10])) == 10
    assert lines[:10] != lines[10:20]


def test_resuming_gives_the_same_remaining_batches(data, tokenizer):
    settings = config(data, text_length=6)
    straight = PictureLoader(settings, tokenizer)
    batches = [next(straight) for _ in range(5)]
    stopped = PictureLoader(settings, tokenizer)
    for _ in range(2):
        next(stopped)
    state = json.loads(json.dumps(stopped.get_state()))
    resumed = PictureLoader(settings, tokenizer)
    resumed.set_state(state)
    for expected in batches[2:]:
        batch = next(resumed)
        np.testing.assert_array_equal(batch.pixels, expected.pixels)
        np.testing.assert_array_equal(batch.text, expected.text)
        np.testing.assert_array_equal(batch.seed, expected.seed)


def test_processes_share_the_same_global_batches(data, tokenizer):
    settings = config(data, text_length=6)
    whole = PictureLoader(settings, tokenizer)
    parts = [PictureLoader(settings, tokenizer, p, 4) for p in range(4)]
    for _ in range(2):
        batch, pieces = next(whole), [next(part) for part in parts]
        for name in ("pixels", "text", "text_length", "weight", "seed"):
            together = np.concatenate([getattr(piece, name) for piece in pieces])
            np.testing.assert_array_equal(together, getattr(batch, name))


def test_seeds_belong_to_the_pictures_draw(data):
    """Of 8 pictures a batch or of 4, of this run's seed: of another seed, none is the same."""

    def seeds(**changes):
        loader = PictureLoader(config(data, **changes), None)
        found = {}
        while len(found) < 40:
            batch, names = next(loader), iter(loader.documents.values())
            assert batch.seed.dtype == np.uint32
            found |= dict(zip(names, batch.seed.tolist(), strict=True))
        return found

    first = seeds()
    assert len(set(first.values())) == 40  # each epoch's anew
    assert seeds(batch=4) == first
    other = seeds(seed=1)
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 4)])
def test_another_number_of_processes_goes_on_where_the_pictures_were(data, before, after):
    settings = config(data)
    whole = PictureLoader(settings, None)
    expected = []
    for _ in range(5):
        expected.append((next(whole), whole.documents))
    stopped = [PictureLoader(settings, None, p, before) for p in range(before)]
    for _ in range(2):
        for loader in stopped:
            next(loader)
    resumed = [PictureLoader(settings, None, p, after) for p in range(after)]
    for loader in resumed:
        loader.set_state(json.loads(json.dumps(stopped[-1].get_state())))
    for batch, documents in expected[2:]:
        pieces = [next(loader) for loader in resumed]
        np.testing.assert_array_equal(np.concatenate([b.pixels for b in pieces]), batch.pixels)
        assert len(documents) == len(batch.pixels)
        assert all(loader.documents == documents for loader in resumed)


@pytest.mark.parametrize("length", [4, 24])
def test_captions_are_cut_and_padded(data, tokenizer, length):
    loader = PictureLoader(config(data, text_length=length, crop="pad"), tokenizer)
    texts = set()
    for _ in range(10):
        batch = next(loader)
        assert batch.text.shape == (8, length)
        for ids, used in zip(batch.text, batch.text_length):
            assert not ids[used:].any()
            texts.add(tuple(ids[:used].tolist()))
    cut = {tuple(tokenizer.encode(text)[:length]) for text in WHOLE}
    assert texts <= cut
    assert len(texts) > 0.7 * len(cut)  # captions are chosen by chance, each picture's anew


def test_held_out_pictures_keep_their_order(data):
    source = (SourceConfig("lines", "describe", "jsonl", str(data / "data.jsonl")),)
    batch = next(PictureLoader(config(data, sources=source), None, shuffle=False))
    names = known(data)
    assert [names[p.tobytes()] for p in batch.pixels] == [f"{i}.png" for i in range(8)]


def test_mistakes_are_told(data, tokenizer):
    with pytest.raises(UserError, match=r"data\.crop: found 'left'"):
        config(data, crop="left")
    with pytest.raises(UserError, match="no source with a weight above 0"):
        config(data, sources=())
    with pytest.raises(UserError, match=r"data\.seed: found -1"):
        config(data, seed=-1)
    with pytest.raises(UserError, match="found 8 pictures and 3 processes"):
        PictureLoader(config(data), None, 0, 3)
    (data / "bare.jsonl").write_text(json.dumps({"image": "0.png", "label": "x"}))
    bare = (SourceConfig("bare", "name", "jsonl", str(data / "bare.jsonl")),)
    with pytest.raises(UserError, match=r"bare\.jsonl:1: found no captions"):
        next(PictureLoader(config(data, sources=bare, text_length=6), tokenizer))
    with pytest.raises(UserError, match="expected a picture of at most 9 pixels"):
        next(PictureLoader(config(data, max_pixels=9), None))


def test_random_parts_masks_and_labels_follow_from_the_seed_of_the_picture(data):
    source = (SourceConfig("cats", "describe", "folder", str(data / "folder")),)
    settings = config(data, sources=source, crop="random", classes=("dog", "cat"))
    masking = Masking(4, 7)
    batch = next(PictureLoader(settings, None, masking=masking))
    paths = sorted((data / "folder" / "cat").glob("*.png"))
    known = [images.decode(p.read_bytes(), "", 10**6) for p in paths]
    for pixels, masked, seed in zip(batch.pixels, batch.masked, batch.seed):
        parts = [random_crop(whole, 16, int(seed)) for whole in known]
        assert any(np.array_equal(pixels, part) for part in parts)
        np.testing.assert_array_equal(masked, block_mask(int(seed), 4, 4, 7).reshape(-1))
    assert batch.masked.sum(axis=1).tolist() == [7] * 8
    np.testing.assert_array_equal(batch.label, [1] * 8)
    parts = [next(PictureLoader(settings, None, p, 4, masking=masking)) for p in range(4)]
    for name in ("pixels", "masked", "label", "seed"):
        pieces = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(pieces, getattr(batch, name))


def test_what_an_encoder_made_stands_beside_its_picture(data):
    cached = Cached("features", lambda key: np.full(3, int(key[:6], 16)), (3,), np.float32)
    batch = next(PictureLoader(config(data), None, cached={"vision": cached}))
    keys = {
        known(data)[p.tobytes()]: f for p, f in zip(batch.pixels, batch.features[:, 0].tolist())
    }
    for name, found in keys.items():
        key = hashlib.sha1((data / name).read_bytes()).hexdigest()
        assert found == int(key[:6], 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (0.5,)}, r"data\.crop_scale: found \(0\.5,\)"),
        ({"crop_scale": (0.0, 1.0)}, r"data\.crop_scale: found \(0\.0, 1\.0\)"),
        ({"classes": ("a", "a")}, r"data\.classes: found \('a', 'a'\); expected each once"),
    ],
)
def test_settings_that_cannot_be_are_refused(data, changes, message):
    with pytest.raises(UserError, match=message):
        config(data, **changes)


def test_a_picture_of_no_class_is_told(data):
    with pytest.raises(UserError, match=r"found no category; expected one of data\.classes: dog"):
        next(PictureLoader(config(data, classes=("dog",)), None))
