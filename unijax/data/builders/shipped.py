"""What the builders of the shipped datasets share."""

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from unijax.core.paths import assets_dir
from unijax.data.builders.shards import read_shards


class ShippedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A `tensorflow_datasets` builder that reads `assets/<name>` and writes ArrayRecord.

    Text and encoded pictures are stored as bytes: no TensorFlow, neither to write nor to read. A
    subclass gives the features, how a shipped record becomes an example, and how an example as read
    back becomes the plain dict that the rest of the program knows.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict] = {}  # nothing is downloaded: do not search for a list of checksums
    DESCRIPTION: str
    FEATURES: dict[str, Any]

    def example(self, record: dict, read) -> dict:
        """The example of a shipped record; `read(name)` gives the bytes of a file beside it."""
        raise NotImplementedError

    @staticmethod
    def plain(example: dict) -> dict:
        """The plain dict of an example as read back: str for text, bytes for pictures."""
        raise NotImplementedError

    def split_name(self, record: dict) -> str:
        """The split that a record belongs to."""
        return record["split"]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(self.FEATURES),
        )

    def _split_generators(self, download_manager) -> dict[str, Iterator]:
        splits = {}
        for record, read in read_shards(assets_dir() / self.name):
            examples = splits.setdefault(self.split_name(record), {})
            examples[record["id"]] = self.example(record, read)
        return {name: iter(examples.items()) for name, examples in splits.items()}

    def _generate_examples(self):
        raise NotImplementedError("examples are made with their splits")


def texts(values) -> list[str]:
    return [value.decode() for value in values]
