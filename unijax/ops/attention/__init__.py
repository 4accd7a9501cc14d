"""Attention over intervals of keys."""

from unijax.ops.attention.api import IMPLEMENTATIONS, attention, select_implementation
from unijax.ops.attention.intervals import (
    attention_pairs,
    check_intervals,
    full_intervals,
    packed_intervals,
)

__all__ = [
    "IMPLEMENTATIONS",
    "attention",
    "attention_pairs",
    "check_intervals",
    "full_intervals",
    "packed_intervals",
    "select_implementation",
]
