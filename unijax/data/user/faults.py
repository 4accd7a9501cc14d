"""What is wrong with single records: raised at the first one, or gathered; and records left out."""

import dataclasses

from unijax.core.errors import Unreadable, UserError, named


@dataclasses.dataclass
class Faults:
    """How mistakes of single records are taken while data is opened.

    Attributes:
      left_out: places of records (`where`) that are not read.
      gathers: whether a record with a mistake is passed over; or the mistake is raised.
      found: the mistakes, by the place of their record.
    """

    left_out: frozenset[str] = frozenset()
    gathers: bool = False
    found: dict[str, UserError] = dataclasses.field(default_factory=dict)

    def tell(self, where: str, error: UserError) -> None:
        """Of a record that cannot be used."""
        if not self.gathers or isinstance(error, Unreadable):  # that is no fault of the record
            raise error
        self.found[named(where)] = error

    def leaves_out(self, where: str) -> bool:
        """Whether the record of this place is not read."""
        return bool(self.left_out) and named(where) in self.left_out
