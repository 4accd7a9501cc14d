"""Looking at data before a run does: what is broken, how long documents are, how rows fill."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from unijax.core.errors import UserError
from unijax.core.files import write_file
from unijax.core.processes import is_lead, text_of_the_lead
from unijax.core.stream import Layout
from unijax.core.telling import tell_once
from unijax.data.check import broken, contact_sheet
from unijax.data.config import DataConfig, GroupConfig, SourceConfig, limit_of
from unijax.data.document import document_size
from unijax.data.rows import RowStream
from unijax.data.sources import DocumentSource, open_sources
from unijax.data.split import fit
from unijax.data.tasks import MAY_BE_CUT
from unijax.data.tokenizer import Tokenizer
from unijax.data.user import KINDS, here, open_own
from unijax.data.user.faults import Faults
from unijax.data.user.folder import files_in
from unijax.main.run import RunConfig
from unijax.sample.pictures import grid, save_png

FILE = "checked.json"  # of a run directory
_SHOWN = 20  # faults in a message
_ROWS = 64  # that are packed to see how they fill
_DOCUMENTS = 2000  # of a source, that are rendered to see how long they are
_SHEET, _SIDE = 48, 96  # pictures of a contact sheet, and their side


_looked_at: dict[tuple, tuple[int, dict[str, UserError]]] = {}


def faults_of(path: str, kind: str, max_pixels: int) -> tuple[int, dict[str, UserError]]:
    """How many records there are, and what is wrong with them, by place; each is decoded."""
    faults = Faults(gathers=True)
    records = open_own(path, kind, faults)
    with tqdm(total=len(records), desc=f"checking {path}", unit="record", disable=None) as bar:
        found = faults.found | broken(records, max_pixels, bar.update)
    return len(records) + len(faults.found), found


def with_checks(run: RunConfig, skip_bad: float, check: bool) -> RunConfig:
    """The run with what is asked of a user's broken records.

    Args:
      skip_bad: share of them that may be left out; the run then goes on where records have come or
        gone, too.
      check: whether all are looked at before the first step.

    Raises:
      UserError: for what is no share, or what is left out without a look.
    """
    if not 0 <= skip_bad < 1:
        found, expected = f"{skip_bad}", "a share of at least 0 and below 1"
        raise UserError("--skip-bad", found, expected, "Write for example --skip-bad 0.01.")
    if skip_bad and not check:
        expected = "one of them: what is not looked at is not known to be broken"
        raise UserError("--skip-bad", "--no-check beside it", expected, "Leave one out.")
    data = run.data
    if skip_bad and isinstance(data, DataConfig):
        data = dataclasses.replace(data, may_change=True)
    skip = skip_bad or run.skip_bad
    return dataclasses.replace(run, data=data, check=run.check and check, skip_bad=skip)


def checked(run: RunConfig, run_dir: pathlib.Path) -> RunConfig:
    """The run without the records of users' data that are broken, if so few may be left out.

    What was found is kept in the run directory, for when the run goes on with the same files.

    Raises:
      UserError: naming all, where more are broken than `skip_bad` allows.
    """
    sources = (*run.validation.sources, *run.data.sources)
    own = dict.fromkeys((s.path, s.kind) for s in sources if s.kind in (*KINDS, "mixed"))
    if not run.check or not own:
        return run
    # One process looks, and all leave out the same.
    found = json.loads(text_of_the_lead(lambda: json.dumps(_found(run, run_dir, list(own)))))
    for path, (count, said) in found.items():
        faults = {place: UserError(*fields) for place, fields in said.items()}
        if len(faults) > run.skip_bad * count:
            raise _too_many(path, count, faults, run.skip_bad)
        if faults and is_lead():
            line = f"{path}: {len(faults)} of {count} records are left out"
            tell_once(line, f"{line}\n  {shown(faults)}")

    def without(groups: Sequence[GroupConfig]) -> tuple[GroupConfig, ...]:
        return tuple(
            dataclasses.replace(g, sources=tuple(map(without_bad, g.sources))) for g in groups
        )

    def without_bad(source: SourceConfig) -> SourceConfig:
        places = tuple(found[source.path][1]) if source.path in found else ()
        return dataclasses.replace(source, left_out=places) if places else source

    validation = dataclasses.replace(run.validation, groups=without(run.validation.groups))
    data = run.data
    if isinstance(data, DataConfig):
        data = dataclasses.replace(data, groups=without(data.groups))
    else:
        data = dataclasses.replace(data, sources=tuple(map(without_bad, data.sources)))
    return dataclasses.replace(run, data=data, validation=validation)


def _too_many(path: str, count: int, faults: dict[str, UserError], share: float) -> UserError:
    needed = math.ceil(1000 * len(faults) / count) / 1000
    without = f"--skip-bad {needed:g} leaves them out" if needed < 1 else "nothing would be left"
    if len(faults) == 1 and not share:
        (only,) = faults.values()
        return UserError(only.where, only.found, only.expected, f"{only.fix} Or {without}.")
    found = f"{len(faults)} of {count} records that cannot be used"
    expected = "records that can" + f", but for {share:.1%}" * bool(share)
    fix = f"Mend them or take them out; {without}:\n  {shown(faults)}"
    return UserError(path, found, expected, fix)


def _found(run: RunConfig, run_dir: pathlib.Path, own: list[tuple[str, str]]) -> dict:
    """By path: how many records, and the parts of what is said of broken ones, by their place."""
    kept = run_dir / FILE
    stamps = {path: _stamp(path) for path, _ in own}
    try:
        known = json.loads(kept.read_bytes())
        if known["stamps"] == stamps:
            return known["found"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or damaged
    found = {}
    for path, kind in own:
        key = (path, *stamps[path])
        if key not in _looked_at:
            _looked_at[key] = faults_of(path, kind, run.data.max_pixels)
        count, faults = _looked_at[key]
        said = {p: [e.where, e.found, e.expected, e.fix] for p, e in sorted(faults.items())}
        found[path] = [count, said]
    few = all(len(said) <= run.skip_bad * count for count, said in found.values())
    if few and run_dir.is_dir():
        write_file(kept, json.dumps({"stamps": stamps, "found": found}))
    return found


def _stamp(path: str) -> list[int]:
    """Files of a path, their bytes, and when the newest was written: another one says of change."""
    place = here(path)
    files = [place / name for name in files_in(place)] if place.is_dir() else [place]
    about = [file.stat() for file in files if file.exists()]
    newest = max((a.st_mtime_ns for a in about), default=0)
    return [len(about), sum(a.st_size for a in about), newest]


def shown(faults: dict[str, UserError]) -> str:
    """The first of them, a line each."""
    lines = [str(error).replace("\n", " ") for _, error in sorted(faults.items())]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([*lines[:_SHOWN], *more])


def look(paths: Sequence[str], sheet: pathlib.Path | None, max_pixels: int) -> int:
    """`unijax check`: prints what is in the data and all that is wrong; returns how much is.

    Args:
      sheet: file for a contact sheet.
    """
    wrong = 0
    pictures = []
    for path in paths:
        count, faults = faults_of(path, "mixed", max_pixels)
        records = open_own(path, faults=Faults(frozenset(faults)))
        tasks: dict[str, int] = {}
        for first, names in records.facts.tasks():
            alike = int(np.sum(records.facts.fields == records.facts.fields[first]))
            for name in names or ["nothing"]:
                tasks[name] = tasks.get(name, 0) + alike
        teach = ", ".join(f"{name} {n}" for name, n in tasks.items()) or "nothing"
        print(f"{path}: {count} records, of which {len(faults)} cannot be used; they teach {teach}")
        if faults:
            print("  " + shown(faults))
        wrong += len(faults)
        if sheet is not None:
            pictures.append(contact_sheet(records, max_pixels, _SHEET // len(paths), _SIDE))
    if sheet is not None and sum(map(len, pictures)):
        save_png(sheet, grid(np.concatenate(pictures)[:, None], [""] * sum(map(len, pictures))))
        print(f"contact sheet: {sheet}")
    return wrong


@dataclasses.dataclass(frozen=True)
class Filling:
    """How documents fill rows.

    Attributes:
      lengths: tokens of documents that were rendered, by source.
      left_out: share of these that fit into no row, by source.
      padding: share of the positions of a row.
      slots: share of the image slots that are used, by name.
    """

    lengths: dict[str, np.ndarray]
    left_out: dict[str, float]
    padding: float
    slots: dict[str, float]

    def table(self) -> str:
        """As text, a line for each source."""
        lines = ["source  documents  tokens: least  median  most  left out"]
        for name, n in self.lengths.items():
            least, median, most = (int(f(n)) for f in (np.min, np.median, np.max))
            lines.append(f"{name}  {len(n)}  {least}  {median}  {most}  {self.left_out[name]:.1%}")
        used = ", ".join(f"{x:.0%} of the {name} slots used" for name, x in self.slots.items())
        return "\n".join([*lines, f"padding {self.padding:.1%}; {used}".rstrip("; ")])


def filling(
    data: DataConfig, layout: Layout, tokenizer: Tokenizer,
    sources: dict[str, DocumentSource] | None = None,
) -> Filling:  # fmt: skip
    """Of the first documents and rows of a run's data. No picture is decoded.

    Args:
      sources: opened already.
    """
    sources = open_sources(data, layout, tokenizer) if sources is None else sources
    limit, lengths, left_out = limit_of(data, layout), {}, {}
    for name, source in sources.items():
        how = data.overlong if source.config.task in MAY_BE_CUT else "drop"
        some = [source.document(i) for i in range(min(source.epoch_length, _DOCUMENTS))]
        lengths[name] = np.array([document_size(d, layout).tokens for d in some])
        left_out[name] = float(np.mean([not fit(d, limit, layout, how) for d in some]))
    stream = RowStream(data, layout, sources)
    rows = [next(stream) for _ in range(_ROWS)]
    sizes = [document_size(placed.document, layout) for row in rows for placed in row]
    tokens = sum(size.tokens for size in sizes)
    used = dict(zip(layout.slots, np.sum([size.slots for size in sizes], axis=0)))
    slots = {n: used[n] / (_ROWS * count) for n, count in data.slots.items() if count}
    return Filling(lengths, left_out, 1 - tokens / (_ROWS * data.row_length), slots)
