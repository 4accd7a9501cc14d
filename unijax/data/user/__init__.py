"""A user's own data, without code: JSON, a folder of pictures, Parquet, or WebDataset's archives.

All is read and checked when it is opened, so that a mistake in the last line is told before
training begins; pictures are found then, and decoded when they are drawn.
"""

from pathlib import Path

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import open_plain
from unijax.data.user.archives import Archives
from unijax.data.user.csv_file import open_csv
from unijax.data.user.faults import Faults
from unijax.data.user.folder import INSTEAD, Folder, files_in
from unijax.data.user.lines import Lines
from unijax.data.user.one_object import open_one_object
from unijax.data.user.picture import PICTURES
from unijax.data.user.records import UserRecords

KINDS = ("jsonl", "folder", "parquet", "webdataset")


def here(path: str | Path) -> Path:
    """The path; of data at an address, a copy on this machine, with the pictures beside a file."""
    return storage.here(path, PICTURES)


def open_own(path: str | Path, kind: str = "mixed", faults: Faults | None = None) -> UserRecords:
    """Opens data of one of KINDS, or of the one that it looks like ("mixed").

    Args:
      path: or an address.
      faults: how mistakes of single records are taken; the first is raised if none.

    Raises:
      UserError: naming the file, and where in it.
    """
    path = here(path)
    match _kind_of(path) if kind == "mixed" else kind:
        case "jsonl" if path.suffix.lower() in (".csv", ".tsv"):
            return open_csv(path, faults)
        case "jsonl":
            return one if (one := open_one_object(path, faults)) else Lines(path, faults=faults)
        case "folder":
            return Folder(path, faults)
        case "webdataset":
            return Archives(path, faults)
        case "parquet":
            from unijax.data.user.tables import open_tables  # pyarrow takes a second

            return open_tables(path, faults)
    raise AssertionError(kind)  # data.config.check names the kinds


_OTHERS = {
    ".arrow": ("an Arrow file", INSTEAD[".arrow"]),
    ".txt": ("a text file", 'Write each text as a line of JSON, {"text": ...}, in a .jsonl.'),
    ".xlsx": ("a spreadsheet", "Save it as CSV."),
}


def _kind_of(path: Path) -> str:
    if path.is_dir():
        ends = {Path(name).suffix.lower() for name in files_in(path)}
        if not ends & PICTURES:
            for end, kind in ((".tar", "webdataset"), (".parquet", "parquet")):
                if end in ends:
                    return kind
        return "folder"
    if not path.is_file():
        return "jsonl"  # whose opening says what is wrong
    try:
        with open_plain(path) as file:
            begin = file.read(512) or b""
    except OSError:
        return "jsonl"
    if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\3\4")):
        raise UserError(str(path), "a compressed file", "one that is not", "Unpack it.")
    if begin.startswith(b"PAR1"):
        return "parquet"
    if path.suffix.lower() in _OTHERS:
        found, fix = _OTHERS[path.suffix.lower()]
        expected = "JSON, a table (.csv, .parquet), archives (.tar) or a folder of pictures"
        raise UserError(str(path), found, expected, fix)
    return "webdataset" if begin[257:262] == b"ustar" or path.suffix == ".tar" else "jsonl"


def open_jsonl(path: str | Path, task: str | None = None) -> UserRecords:
    """Opens a file of JSON, as `data.user.record.to_record` describes its lines.

    Args:
      path: JSON Lines, or an array; pictures are relative to its folder.
      task: that every line must be fit for.

    Raises:
      UserError: naming the file and the line.
    """
    return _fit(Lines(Path(path)), task)


def open_folder(path: str | Path, task: str | None = None) -> UserRecords:
    """Opens a folder of pictures (`data.user.folder.Folder`)."""
    return _fit(Folder(Path(path)), task)


def open_mixed(path: str | Path, faults: Faults | None = None) -> UserRecords:
    """Opens data of any form; its records need not all serve one task."""
    return open_own(path, faults=faults)


def _fit(records: UserRecords, task: str | None) -> UserRecords:
    if task is not None:
        records.check(task)
    return records
