"""Interleaved pages of text and pictures: scikit-image's documentation."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from unijax.data.builders.shipped import ShippedBuilder


class Pages(ShippedBuilder):
    """One page is a section or two, in document order; splits by document.

    A part is stored as a text and a picture of which one is empty.
    """

    DESCRIPTION = "Sections of scikit-image's documentation with their figures, at most 96 px."
    FEATURES: ClassVar = {
        "id": tfds.features.Text(),
        "parts": tfds.features.Sequence(
            {"text": tfds.features.Text(), "image": tfds.features.Scalar(np.object_)}
        ),
    }

    def example(self, record: dict, read) -> dict:
        parts = [
            {"text": part.get("text", ""), "image": read(part["image"]) if "image" in part else b""}
            for part in record["parts"]
        ]
        return {"id": record["id"], "parts": parts}

    @staticmethod
    def plain(example: dict) -> dict:
        parts = zip(example["parts"]["text"], example["parts"]["image"])
        return {
            "id": example["id"].decode(),
            "parts": [{"image": image} if image else {"text": t.decode()} for t, image in parts],
        }
