"""Suites are classes outside of test modules: their assertions are to tell as much."""

import pytest

from tests.long import MARKS

pytest.register_assert_rewrite(
    "tests.systems.system_suite", "tests.systems.decoder_suite", "tests.systems.image_suite"
)


def pytest_collection_modifyitems(items):
    """Of suites, what their systems leave to `make test-long`."""
    for item in items:
        if getattr(item, "originalname", None) in getattr(item.cls, "long", ()):
            for mark in MARKS:
                item.add_marker(mark)
