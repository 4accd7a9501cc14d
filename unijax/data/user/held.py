"""Records whose lines are in memory: of a folder, or of a file that is read whole."""

from collections.abc import Iterable
from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.telling import tell_once
from unijax.data.user.faults import Faults
from unijax.data.user.notes import Notes
from unijax.data.user.record import to_record
from unijax.data.user.records import FactsOf, UserRecords


class Held(UserRecords):
    """Each record is made of its line when it is asked for.

    Args:
      path: the file or folder, for messages.
      lines: place of each, and the line or what is wrong with it.
      folder: that paths of pictures are relative to.
      loose: see `to_record`.
      faults: how mistakes of single records are taken.
      notes: what was understood so far.
      form: what the lines were read from, where that is to be said.
    """

    def __init__(
        self,
        path: Path,
        lines: Iterable[tuple[str, dict | UserError]],
        folder: Path,
        loose: bool,
        faults: Faults | None,
        notes: Notes,
        form: str = "",
    ):
        faults = Faults() if faults is None else faults
        facts = FactsOf()
        self._folder, self._loose, self._lines = folder, loose, []
        for where, line in lines:
            if faults.leaves_out(where):
                continue
            try:
                if isinstance(line, UserError):
                    raise line
                facts.add(to_record(line, where, folder, notes, loose))
                self._lines.append((where, line))
            except UserError as error:
                faults.tell(where, error)
        self.facts = facts.done()
        if form:
            notes.forms[form] += len(self)
        said = notes.line(path, len(self))
        if said:
            tell_once(said, said)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict:
        where, line = self._lines[index]
        return to_record(line, where, self._folder, Notes(), self._loose)
