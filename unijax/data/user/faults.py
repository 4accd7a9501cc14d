"""What is wrong with single records: raised at the first one, or gathered; and records left out."""

import dataclasses

from unijax.core.errors import UserError


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
        if not self.gathers:
            raise error
        self.found[where] = error
