"""Fields of configs that came when runs were on record already."""

import dataclasses
from typing import Any


def added(default: Any) -> Any:
    """Such a field, left out of a record where it has this value: as if it had never come.

    So the names of runs, which are made of their records, stay what they were, and a run goes on
    from checkpoints that know nothing of the field.
    """
    return dataclasses.field(default=default, metadata={"added": True})


def is_silent(field: dataclasses.Field, value: Any) -> bool:
    """Whether a record leaves out the field when it has this value."""
    return "added" in field.metadata and value == field.default
