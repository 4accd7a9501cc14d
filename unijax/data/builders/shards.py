"""The form in which data is shipped: zip shards under 4 MiB and a manifest.

A shard holds `records.jsonl` (LZMA) and the files that its records name, one after another in
`files` (stored: pictures are compressed already), with their names and lengths in `files.json`:
entries of their own would take a hundred bytes each. `manifest.json` beside the shards gives the
size, SHA-256 and number of records of each, so that a missing or damaged shard is named before
anything is made from it.
"""

import hashlib
import io
import itertools
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from unijax.core.errors import UserError
from unijax.data.document import stable_hash

MAX_SHARD_BYTES = 4 * 2**20 - 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: the same records give the same bytes


def split_of(concept: str, held: float = 0.05) -> str:
    """'train', 'validation' or 'test', a function of the concept's name alone.

    Validation and test have about the share `held` each.
    """
    share = stable_hash("split", concept) / 2**32
    return "test" if share < held else "validation" if share < 2 * held else "train"


def _pack(records: list[dict], files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("records.jsonl", _EPOCH), lines, zipfile.ZIP_LZMA)
        lengths = json.dumps([[name, len(files[name])] for name in sorted(files)])
        archive.writestr(zipfile.ZipInfo("files.json", _EPOCH), lengths, zipfile.ZIP_LZMA)
        whole = b"".join(files[name] for name in sorted(files))
        archive.writestr(zipfile.ZipInfo("files", _EPOCH), whole, zipfile.ZIP_STORED)
    return out.getvalue()


def _unpack(archive: zipfile.ZipFile) -> dict[str, bytes]:
    whole, end = archive.read("files"), 0
    files = {}
    for name, length in json.loads(archive.read("files.json")):
        files[name] = whole[end : end + length]
        end += length
    return files


def write_shards(
    folder: Path,
    records: list[dict],
    files: dict[str, bytes],
    names: Callable[[dict], Iterable[str]],
    shards: int,
    sources: list[str],
) -> dict:
    """Writes the records in `shards` shards of equal length, and the manifest, which it returns.

    `names(record)` gives the files that a record needs; `sources` names the packages.
    """
    for old in folder.glob("*.zip"):
        old.unlink()
    manifest = {"sources": sources, "records": len(records), "shards": []}
    manifest["splits"] = dict(sorted(Counter(r["split"] for r in records).items()))
    cuts = [len(records) * i // shards for i in range(shards + 1)]
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        part = records[start:stop]
        needed = {name: files[name] for record in part for name in names(record)}
        data = _pack(part, needed)
        assert len(data) <= MAX_SHARD_BYTES, f"shard {i} has {len(data)} bytes: use more shards"
        name = f"{folder.name}-{i:02d}.zip"
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["shards"].append(
            {"file": name, "bytes": len(data), "sha256": digest, "records": len(part)}
        )
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def read_manifest(folder: Path) -> dict:
    """The manifest of an asset folder. Raises UserError where it is missing or not readable."""
    path = folder / "manifest.json"
    expected = "the manifest of a shipped dataset"
    fix = f"Restore it from the repository, or remake it: python assets/{folder.name}/make.py"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(str(path), "no such file", expected, fix) from None
    except json.JSONDecodeError as error:
        raise UserError(str(path), f"no JSON ({error})", expected, fix) from None


def _checked(folder: Path, shard: dict) -> bytes:
    path = folder / shard["file"]
    expected = f"{shard['bytes']} bytes with SHA-256 {shard['sha256'][:12]}..."
    fix = f"Restore it from the repository, or remake it: python assets/{folder.name}/make.py"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(str(path), "no such file", expected, fix) from None
    if len(data) != shard["bytes"]:
        cut = "truncated, " if len(data) < shard["bytes"] else ""
        raise UserError(str(path), f"{cut}{len(data)} bytes", expected, fix)
    digest = hashlib.sha256(data).hexdigest()
    if digest != shard["sha256"]:
        raise UserError(str(path), f"damaged bytes with SHA-256 {digest[:12]}...", expected, fix)
    return data


def read_shards(folder: Path) -> Iterator[tuple[dict, Callable[[str], bytes]]]:
    """Yields `(record, read)` for every record; `read(name)` gives the bytes of one of its files.

    Raises UserError naming the shard that is missing, truncated or damaged.
    """
    for shard in read_manifest(folder)["shards"]:
        # In memory: nothing to close.
        archive = zipfile.ZipFile(io.BytesIO(_checked(folder, shard)))
        files = _unpack(archive)
        for line in archive.read("records.jsonl").splitlines():  # of bytes: at line feeds alone
            yield json.loads(line), files.__getitem__
