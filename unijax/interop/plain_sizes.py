"""Sizes that an export of this project says itself: held to limits before anything is made."""

from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import quoted
from unijax.interop.sections import BLOCKS, LAYERS, ROWS


def check_limits(value: Any, where: str) -> None:
    """Raises a UserError for numbers that no network has."""
    most = ROWS
    if "num_hidden_layers" in where:
        most = LAYERS
    if "layers_per_block" in where:
        most = BLOCKS
    if isinstance(value, dict):
        for key, inner in value.items():
            check_limits(inner, f"{where}.{key}")
    elif isinstance(value, list):
        if len(value) > 16:
            raise UserError(where, f"{len(value)} values", "at most 16", "Correct the file.")
        for inner in value:
            check_limits(inner, where)
    elif type(value) is int and not 0 <= value <= most:
        raise UserError(where, quoted(value), f"0 to {most:,}", "Correct the file.")
