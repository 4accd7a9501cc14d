"""Records of a file that is read whole: their lines are in memory."""

from pathlib import Path

from unijax.core.errors import UserError
from unijax.core.telling import tell_once
from unijax.data.user.faults import Faults
from unijax.data.user.notes import Notes
from unijax.data.user.record import to_record
from unijax.data.user.records import FactsOf, UserRecords

_LOOSE = ("COCO", "a table of characters")  # whose other keys are left alone


class Held(UserRecords):
    """Each record is made of its line when it is asked for.

    Args:
      path: the file, for messages.
      lines: place and line of each.
      form: what they were read from.
      folder: that paths of pictures are relative to.
      faults: how mistakes of single records are taken.
    """

    def __init__(
        self,
        path: Path,
        lines: list[tuple[str, dict]],
        form: str,
        folder: Path,
        faults: Faults | None,
    ):
        faults = Faults() if faults is None else faults
        facts, notes = FactsOf(), Notes()
        self._folder, self._loose, self._lines = folder, form in _LOOSE, []
        for where, line in lines:
            if where in faults.left_out:
                continue
            try:
                facts.add(to_record(line, where, folder, notes, self._loose))
                self._lines.append((where, line))
            except UserError as error:
                faults.tell(where, error)
        self.facts = facts.done()
        notes.forms[form] += len(self._lines)
        said = notes.line(path, len(self._lines))
        tell_once(said, said)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict:
        where, line = self._lines[index]
        return to_record(line, where, self._folder, Notes(), self._loose)
