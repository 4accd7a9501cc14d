"""What takes too long for every change, and `make test-long` runs."""

import os

import pytest

LONG = bool(os.environ.get("TEST_LONG"))

long = pytest.mark.skipif(not LONG, reason="make test-long")
