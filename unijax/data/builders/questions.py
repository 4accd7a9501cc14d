"""Questions about pictures: easy-VQA."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from unijax.data.builders.shipped import ShippedBuilder, texts


class Questions(ShippedBuilder):
    """One record is one picture with its questions and short answers; splits by picture."""

    DESCRIPTION = "easy-VQA: one coloured shape, 64x64, and about ten questions on it."
    FEATURES: ClassVar = {
        "id": tfds.features.Text(),
        "image": tfds.features.Scalar(np.object_),
        "questions": tfds.features.Sequence(
            {"question": tfds.features.Text(), "answer": tfds.features.Text()}
        ),
    }

    def example(self, record: dict, read) -> dict:
        image = read(record["file"])
        return {"id": record["id"], "image": image, "questions": record["questions"]}

    @staticmethod
    def plain(example: dict) -> dict:
        turns = zip(texts(example["questions"]["question"]), texts(example["questions"]["answer"]))
        return {
            "id": example["id"].decode(),
            "image": example["image"],
            "questions": [{"question": question, "answer": answer} for question, answer in turns],
        }
