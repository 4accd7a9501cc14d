"""Captioned pictures: Fluent emoji."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from unijax.data.builders.shipped import ShippedBuilder, texts

_WORDS = ("id", "label", "base_label", "concept", "category", "subcategory", "skin_tone")


class Emoji(ShippedBuilder):
    """Splits train, validation, test by concept; composition holds train's (concept, tone) pairs
    that train never shows together."""

    DESCRIPTION = "Fluent emoji, 64x64 RGBA WebP, with CLDR names, keywords and groups."
    FEATURES: ClassVar = {
        **{name: tfds.features.Text() for name in _WORDS},
        "image": tfds.features.Scalar(np.object_),
        "captions": tfds.features.Sequence(tfds.features.Text()),
        "keywords": tfds.features.Sequence(tfds.features.Text()),
    }

    def split_name(self, record: dict) -> str:
        return "composition" if record["held_out_pair"] else record["split"]

    def example(self, record: dict, read) -> dict:
        words = {name: record[name] or "" for name in _WORDS}
        captions = [record["label"]]
        if record["keywords"]:
            captions.append(f"{record['label']}. Keywords: {', '.join(record['keywords'][:6])}.")
        return {
            **words,
            "image": read(record["file"]),
            "captions": captions,
            "keywords": record["keywords"],
        }

    @staticmethod
    def plain(example: dict) -> dict:
        words = {name: example[name].decode() for name in _WORDS}
        return {
            **words,
            "skin_tone": words["skin_tone"] or None,
            "image": example["image"],
            "captions": texts(example["captions"]),
            "keywords": texts(example["keywords"]),
        }
