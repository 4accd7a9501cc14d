"""The results of a study: one table, a row for each run, Parquet or CSV.

| column | meaning |
|---|---|
| run_id | text, different in every row |
| parameters, non_embedding_parameters | counts (not millions); at least one of the two |
| tokens | seen in training, repetitions included |
| loss_NAME_nats_per_token | held-out loss of a modality; at least one |
| tokens_NAME | of `tokens`, those of documents that teach the loss NAME |
| unique_tokens | different tokens among `tokens`: of documents that the run had not seen before |
| training_flops | of the whole run; without it compute is 6 N D |
| system, size, seed, learning_rate, epochs | what the run was |
| state | "done", "diverged" or "unfinished"; without it every run is done |

Other columns are kept; their values are looked at as names of parts only. `duckdb`, `pandas` and
the like query the file as it is.
"""

import codecs
import collections
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from unijax.core.errors import UserError
from unijax.core.files import atomic_file
from unijax.scaling import cells

COUNTS_OF_N = ("non_embedding_parameters", "parameters")  # the first is taken where both are
TEXT = ("run_id", "system", "size", "state")
NUMBERS = (
    "parameters", "non_embedding_parameters", "tokens", "unique_tokens", "training_flops",
    "learning_rate", "seed", "epochs",
)  # fmt: skip
UNIT = "_nats_per_token"
STATES = ("done", "diverged", "unfinished")


@dataclasses.dataclass(frozen=True)
class Runs:
    """A table in memory: text columns as object arrays, numbers as float64, missing ones NaN."""

    columns: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()  # what was read otherwise than by its letters

    def __len__(self) -> int:
        return len(self.columns["run_id"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def get(self, name: str) -> np.ndarray | None:
        """A column, or None."""
        return self.columns.get(name)

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the modalities."""
        ours = [c for c in self.columns if c.startswith("loss_") and c.endswith(UNIT)]
        return tuple(c.removeprefix("loss_").removesuffix(UNIT) for c in ours)

    def loss(self, modality: str) -> np.ndarray:
        """Nats per token."""
        return self.columns[f"loss_{modality}{UNIT}"]

    def where(self, keep: np.ndarray) -> "Runs":
        """The rows of a boolean mask."""
        return Runs({k: v[keep] for k, v in self.columns.items()}, self.notes)


def read(path: str | os.PathLike) -> Runs:
    """A table of runs, checked for form; `validate` checks what it says.

    Raises:
      UserError: no such file, half-written, empty, or columns that are not as above.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(str(path), "no such file", "a table of runs", "Make it: unijax gather.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pa.parquet.read_table(path)
        elif path.suffix.lower() in (".csv", ".tsv"):
            return _read_csv(path)
        else:
            raise UserError(
                str(path), f"a file of kind {path.suffix!r}", ".parquet or .csv", "Convert it."
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise UserError(
            str(path),
            f"a table that cannot be read ({str(e).splitlines()[0]})",
            "a whole table",
            "It may be half-written: make it anew with unijax gather.",
        ) from e
    return _check_form(path, table)


def _read_csv(path: pathlib.Path) -> Runs:
    data = path.read_bytes()
    if not data:
        raise UserError(
            str(path), "an empty file (0 bytes)", "a table", "Make it anew with unijax gather."
        )
    _check_encoding(path, data)
    sheet = cells.read(data.decode("utf-8-sig"), str(path), (*TEXT, *NUMBERS))
    if not data.endswith((b"\n", b"\r")) and not (sheet.rows and cells.is_whole(sheet)):
        raise UserError(
            str(path),
            f"a last line without an end, its last cell {sheet.last!r}",
            "a whole table",
            "It may be half-written: make it anew, or end the line if it is whole.",
        )
    _check_names(path, sheet.names)
    columns, notes = {}, list(sheet.notes)
    ours = [i for i, name in enumerate(sheet.names) if _is_number(name)]
    losses = [sheet.column(i) for i in ours if sheet.names[i].endswith(UNIT)]
    comma = cells.decimal_comma([sheet.column(i) for i in ours], losses)
    for i, name in enumerate(sheet.names):
        column, where = sheet.column(i), f"{path}: column {name}"
        if i in ours:
            counts = not name.endswith(UNIT) and name != "learning_rate"
            columns[name], read = cells.numbers(column, where, sheet.lines, comma, counts)
            notes += read
            continue
        values = np.array([x or None for x in column], dtype=object)
        if name not in TEXT:
            with contextlib.suppress(UserError):
                values = cells.numbers(column, where, sheet.lines, comma, False)[0]
        columns[name] = values
    _check_rows(path, len(sheet.rows))
    return Runs(columns, tuple(notes))


def _is_number(name: str) -> bool:
    return name in NUMBERS or name.endswith(UNIT) or name.startswith("tokens_")


def _check_encoding(path: pathlib.Path, data: bytes) -> None:
    """Arrow reads such values as binary, and fails later where they name a column."""
    found = ""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = "text in UTF-16"
    else:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as e:
            line = data.count(b"\n", 0, e.start) + 1
            found = f"a byte that is not UTF-8 (0x{data[e.start]:02x} in line {line})"
    if found:
        raise UserError(str(path), found, "a table in UTF-8", "Save it as CSV in UTF-8.")


def _check_form(path: pathlib.Path, table: pa.Table) -> Runs:
    names = table.column_names
    _check_names(path, names)
    _check_rows(path, table.num_rows)
    columns, notes = {}, []
    for name in names:
        column = table.column(name)
        if pa.types.is_null(column.type) and _is_number(name):
            column = column.cast(pa.float64())  # of a file without types: no value yet
        if pa.types.is_decimal(column.type):  # as databases write numbers with a point
            column = column.cast(pa.float64(), safe=False)
        if name in TEXT or not (pa.types.is_floating(column.type) or _is_integer(column.type)):
            values = column.to_pylist()
            if _is_number(name) and _is_string(column.type):
                text = ["" if x is None else x.strip() for x in values]
                comma, lines = cells.decimal_comma([text]), range(1, len(text) + 1)
                where, counts = f"{path}: column {name}", not name.endswith(UNIT)
                columns[name], read = cells.numbers(text, where, lines, comma, counts)
                notes += read
                continue
            if _is_number(name):
                raise UserError(
                    f"{path}: column {name}", f"values of type {column.type}", "numbers",
                    "Correct the table.",
                )  # fmt: skip
            columns[name] = np.array(values, dtype=object)
        else:
            # Integers above 2^53, as FLOPs are, are rounded: Arrow alone would refuse them.
            columns[name] = column.cast(pa.float64(), safe=False).to_numpy()
    return Runs(columns, tuple(notes))


def _check_names(path: pathlib.Path, names: list[str]) -> None:
    twice = [n for n, times in collections.Counter(names).items() if times > 1]
    if twice:
        raise UserError(
            str(path), f"two columns of one name, {twice[0]!r}", "different names", "Rename one."
        )
    for name in names:
        if name.startswith("loss_") and not name.endswith(UNIT):
            raise UserError(
                f"{path}: column {name}",
                "a loss without its unit",
                f"a name that ends in {UNIT}",
                "Convert to nats per token (bits times 0.6931) and rename the column.",
            )
        if name.startswith("loss_") and len(name) <= len("loss_" + UNIT):
            raise UserError(
                f"{path}: column {name}", "a loss without a name", f"loss_NAME{UNIT}",
                f"Rename the column, to loss_text{UNIT} for instance.",
            )  # fmt: skip
    for need in (("run_id",), ("tokens",), COUNTS_OF_N):
        if not any(n in names for n in need):
            raise UserError(
                str(path),
                f"columns {names}",
                f"a column {' or '.join(need)}",
                "Columns and their units are listed in docs/scaling.md.",
            )
    if not any(n.startswith("loss_") for n in names):
        raise UserError(
            str(path), f"columns {names}", f"a column loss_NAME{UNIT}", "Add or rename one."
        )


def _check_rows(path: pathlib.Path, rows: int) -> None:
    if not rows:
        raise UserError(
            str(path), "no row", "a row for each run",
            "It may be half-written: make it anew with unijax gather.",
        )  # fmt: skip


def _is_integer(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind)


def _is_string(kind: pa.DataType) -> bool:
    """Libraries of data frames write the other two."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def write(path: str | os.PathLike, rows: Sequence[Mapping]) -> None:
    """Writes rows as a table, whole or not at all.

    Raises:
      UserError: if the place cannot be written or the suffix is neither .parquet nor .csv.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(
            str(path), f"a file of kind {path.suffix!r}", ".parquet or .csv", "Change it."
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    for name, column in columns.items():
        if pa.types.is_null(column.type) and (name in NUMBERS or name.endswith(UNIT)):
            columns[name] = column.cast(pa.float64())  # numbers, though none is known yet
    table = pa.table(columns)
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".parquet":
            pa.parquet.write_table(table, temporary)
        else:
            pa.csv.write_csv(table, temporary)
