"""Small records, tokenizers and configs for the tests of the data path."""

import io

import numpy as np
import pytest
from PIL import Image

from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout, Stream
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.config import DataConfig, GroupConfig, SourceConfig
from unijax.data.rows import RowStream
from unijax.data.sentencepiece_tokenizer import train
from unijax.data.sources import open_sources

NAMES = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "pad": "<｜▁pad▁｜>",
    "boi": "<begin_of_image>",
    "eoi": "<end_of_image>",
    "image_placeholder": "<image_placeholder>",
}
ROLES = ("<|User|>", "<|Assistant|>")
# As Janus lays its documents out: images to read of 4 tokens, images to make of 9 codes.
UND = Stream("und", "und", Kind.UND, tokens=4, size=16, resize="pad")
GEN = Stream("gen", "gen", Kind.GEN, tokens=9, size=16, target=Target.CODE)
LAYOUT = Layout((UND, GEN))
WORDS = ["red", "blue", "green", "cat", "dog", "tree", "car", "a", "on", "of", "two", "mat", "is"]


def sentence(rng, low=2, high=12) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(low, high)))


def png(rng, width=20, height=14, mode="RGB") -> bytes:
    pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode if len(mode) > 1 else "L").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """With three pictures: a.png, b.png, c.png."""
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(rng))
    return tmp_path


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory):
    """A sentencepiece model trained on a few hundred sentences, with roles as special tokens."""
    directory = tmp_path_factory.mktemp("tokenizer")
    rng = np.random.default_rng(0)
    texts = [sentence(rng) + ".\n" for _ in range(300)]
    train(directory, texts, vocab_size=330, names=NAMES, extra=ROLES, model_type="bpe")
    return directory


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir):
    return tokenizer_lib.load(tokenizer_dir)


def make_records(seed=0, count=12) -> dict[str, list[dict]]:
    """Records of every kind, by the name of the source that `small_config` gives them."""
    rng = np.random.default_rng(seed)
    pictures = [
        {
            "id": f"p{i}",
            "image": png(rng),
            "captions": [f"{sentence(rng)}. {sentence(rng)}.", sentence(rng)],
            "label": WORDS[i % len(WORDS)],
            "category": WORDS[i % 3],
            "keywords": ["small", "red"],
            "questions": [{"question": "what is shown?", "answer": sentence(rng, 1, 3)}],
        }
        for i in range(count)
    ]
    texts = [
        {"id": f"t{i}", "text": "\n\n".join(sentence(rng) for _ in range(1 + i % 3))}
        for i in range(count + 3)
    ]
    pages = [
        {
            "id": f"g{i}",
            "parts": [{"text": sentence(rng)}, {"image": png(rng)}, {"text": sentence(rng)}],
        }
        for i in range(5)
    ]
    return {"ask": pictures, "text": texts, "pages": pages, "draw": pictures}


def small_config(**changes) -> DataConfig:
    """und : text : gen = 2 : 3 : 5 over in-memory records."""
    settings = {
        "groups": (
            GroupConfig("und", 2.0, (SourceConfig("ask", "question"),)),
            GroupConfig(
                "text",
                3.0,
                (
                    SourceConfig("text", "text", weight=2.0),
                    SourceConfig("pages", "page", weight=1.0),
                ),
            ),
            GroupConfig("gen", 5.0, (SourceConfig("draw", "generate"),)),
        ),
        "row_length": 96,
        "rows": 4,
        "slots": {"und": 3, "gen": 4},
        "open_rows": 4,
        "prefetch": 0,
    }
    return DataConfig(**(settings | changes))


RECORDS = make_records()


def stream(tokenizer, records=RECORDS, **changes) -> RowStream:
    """The rows of `small_config` with these changes."""
    config = small_config(**changes)
    return RowStream(config, LAYOUT, open_sources(config, LAYOUT, tokenizer, records))
