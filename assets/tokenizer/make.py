"""Makes the shipped tokenizer from the shipped data: run `python assets/tokenizer/make.py`.

A byte-pair sentencepiece model on the train splits alone: names, captions and keywords of the
pictures (seen often, so that a name is a few tokens), word definitions, pages, questions and what
composed scenes say. The special tokens are called as in Janus-Pro.
"""

import pathlib
from collections.abc import Iterator

from unijax.data.builders import open_dataset
from unijax.data.scenes import Scenes
from unijax.data.sentencepiece_tokenizer import train
from unijax.data.tasks import QUESTIONS

VOCAB_SIZE = 4096
NAMES = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "pad": "<｜▁pad▁｜>",
    "boi": "<begin_of_image>",
    "eoi": "<end_of_image>",
    "image_placeholder": "<image_placeholder>",
}
ROLES = ("<|User|>", "<|Assistant|>")
CAPTION_REPEATS = 8
SCENES = 4000


def texts() -> Iterator[str]:
    """What the model is trained on. A space in front, as words stand behind a role's colon."""
    emoji = open_dataset("emoji", "train")
    for record in (emoji[i] for i in range(len(emoji))):
        words = (record["label"], record["base_label"], record["category"], *record["keywords"])
        for text in (*words, *record["captions"]):
            yield from [" " + text] * CAPTION_REPEATS
    for name in ("text", "pages", "questions"):
        records = open_dataset(name, "train")
        for record in (records[i] for i in range(len(records))):
            yield from _record_texts(record)
    scenes = Scenes(split="train", seed=0)
    for record in (scenes[i] for i in range(SCENES)):
        yield from (" " + caption for caption in record["captions"])
        yield from _record_texts(record)
    for questions in QUESTIONS.values():
        yield from questions


def _record_texts(record: dict) -> Iterator[str]:
    if "text" in record:
        yield record["text"]
    for part in record.get("parts", ()):
        if "text" in part:
            yield part["text"]
    for pair in record.get("questions", ()):
        yield "\n" + pair["question"]
        yield " " + pair["answer"]


if __name__ == "__main__":
    train(
        pathlib.Path(__file__).parent,
        texts(),
        vocab_size=VOCAB_SIZE,
        names=NAMES,
        extra=ROLES,
        model_type="bpe",
    )
