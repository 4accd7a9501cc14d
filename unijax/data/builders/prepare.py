"""Opens a shipped dataset, preparing it on first use."""

import contextlib
import difflib
import hashlib
import io
import json
import os
from pathlib import Path

import tensorflow_datasets as tfds

from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.paths import assets_dir, cache_dir
from unijax.data.builders.emoji import Emoji
from unijax.data.builders.pages import Pages
from unijax.data.builders.questions import Questions
from unijax.data.builders.shards import read_manifest
from unijax.data.builders.shipped import ShippedBuilder
from unijax.data.builders.text import Text
from unijax.data.document import stable_hash

BUILDERS: dict[str, type[ShippedBuilder]] = {
    "emoji": Emoji,
    "text": Text,
    "pages": Pages,
    "questions": Questions,
}


LABELS = "index.json"  # beside the records: by split, the labels of each


class Dataset:
    """Random access to one split: `len(d)`, and `d[i]` gives a plain dict.

    Attributes:
      labels: (hash of the id, category or None) of every record, by which a source is narrowed
        without reading one.
    """

    def __init__(self, source, plain, labels: list[tuple[int, str | None]]):
        self._source, self._plain = source, plain
        self.labels = labels

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        return self._plain(self._source[int(index)])


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "sizes.json"
    }


def _prepare(builder: type[ShippedBuilder], folder: Path) -> None:
    """Writes the dataset to `folder`: as a whole, or not at all."""
    try:
        with atomic_directory(folder) as temporary:
            tfds.disable_progress_bar()
            made = builder(data_dir=temporary, file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloading: it does not
                made.download_and_prepare()
            labels = {split: _labels(made, split) for split in made.info.splits}
            (temporary / LABELS).write_text(json.dumps(labels))
            (temporary / "sizes.json").write_text(json.dumps(_sizes(temporary)))
    except UserError:
        if not (folder / "sizes.json").exists():  # otherwise another process was first
            raise


def _labels(made: ShippedBuilder, split: str) -> list[tuple[int, str | None]]:
    records = map(made.plain, made.as_data_source(split))
    return [(stable_hash(record["id"]), record.get("category")) for record in records]


def _check(folder: Path) -> None:
    found, expected = _sizes(folder), json.loads((folder / "sizes.json").read_text())
    for name, size in expected.items():
        if found.get(name) != size:
            raise UserError(
                str(folder / name),
                f"{found[name]} bytes" if name in found else "no such file",
                f"{size} bytes, as they were written",
                f"Remove {folder}: it is prepared again on the next use.",
            )


def _read_labels(folder: Path, split: str, length: int) -> list[tuple[int, str | None]]:
    try:
        labels = [(point, name) for point, name in json.loads((folder / LABELS).read_text())[split]]
        if len(labels) != length:
            raise ValueError(f"{len(labels)} of {length} labels")
    except (ValueError, LookupError, TypeError) as e:
        raise UserError(
            str(folder / LABELS), f"a damaged file ({e!r})", "the label of every record",
            f"Remove {folder}: it is prepared again on the next use.",
        ) from e  # fmt: skip
    return labels


def open_dataset(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Opens a split of a shipped dataset for random access, preparing it on first use.

    Args:
      name: 'emoji', 'text', 'pages' or 'questions'.
      split: 'train', 'validation' or 'test'; 'composition' too for emoji.
      data_dir: where prepared datasets are kept; `core.paths.cache_dir()` when None.

    Raises:
      UserError: for an unknown name or split, a missing or damaged file, an unwritable folder.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, 1)
        fix = f"Did you mean {near[0]!r}?" if near else "Choose one of them."
        raise UserError("dataset", repr(name), f"one of {', '.join(BUILDERS)}", fix)
    manifest = read_manifest(assets_dir() / name)
    builder = BUILDERS[name]
    made_from = json.dumps([manifest, str(builder.VERSION), LABELS], sort_keys=True)
    mark = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    folder = Path(data_dir or cache_dir()) / f"{name}-{mark}"
    if not folder.exists():
        _prepare(builder, folder)
    _check(folder)
    opened = builder(data_dir=folder, file_format="array_record")
    if split not in opened.info.splits:
        known = ", ".join(sorted(opened.info.splits))
        raise UserError(f"split of {name}", repr(split), f"one of {known}", "Choose one of them.")
    source = opened.as_data_source(split)
    return Dataset(source, builder.plain, _read_labels(folder, split, len(source)))
