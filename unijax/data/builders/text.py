"""Text alone: WordNet's glosses."""

from typing import ClassVar

import tensorflow_datasets as tfds

from unijax.data.builders.shipped import ShippedBuilder


class Text(ShippedBuilder):
    """One document is one sense of a word; splits by the first word of the sense."""

    DESCRIPTION = "Glosses and examples of WordNet 3.0 as one-paragraph documents."
    FEATURES: ClassVar = {"id": tfds.features.Text(), "text": tfds.features.Text()}

    def example(self, record: dict, read) -> dict:
        return {"id": record["id"], "text": record["text"]}

    @staticmethod
    def plain(example: dict) -> dict:
        return {"id": example["id"].decode(), "text": example["text"].decode()}
