"""What takes too long for every change, and `make test-long` runs."""

import os
from collections.abc import Callable

import pytest

LONG = bool(os.environ.get("TEST_LONG"))
MARKS = (pytest.mark.long, pytest.mark.skipif(not LONG, reason="make test-long"))


def long(test: Callable) -> Callable:
    """For `make test-long` alone; of a test's cases: `pytest.param(..., marks=MARKS)`."""
    for mark in MARKS:
        test = mark(test)
    return test
