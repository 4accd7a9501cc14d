"""What a user's data was read as, where that is more than their own words say: one line."""

import dataclasses
from collections import Counter


@dataclasses.dataclass
class Notes:
    """Counted while data is opened.

    Attributes:
      forms: records by the form that they were read from.
      said: things that were understood, by how often.
      unread: keys that say nothing here, by how often.
    """

    forms: Counter[str] = dataclasses.field(default_factory=Counter)
    said: Counter[str] = dataclasses.field(default_factory=Counter)
    unread: Counter[str] = dataclasses.field(default_factory=Counter)

    def line(self, path: object, records: int) -> str:
        """What to say; nothing where all was said by the data itself."""
        parts = [f"{count} from {form}" for form, count in self.forms.most_common()]
        said = self.said.items()
        parts += [what if count >= records else f"{what} ({count})" for what, count in said]
        if self.unread:
            keys = [key for key, _ in self.unread.most_common(8)]
            more = len(self.unread) - len(keys)
            parts.append(f"not read: {', '.join(keys)}{f' and {more} more' if more else ''}")
        return f"{path}: {records} records; {'; '.join(parts)}" if parts else ""
