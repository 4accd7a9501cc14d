"""Suites are classes outside of test modules: their assertions are to tell as much."""

import pytest

pytest.register_assert_rewrite(
    "tests.systems.system_suite", "tests.systems.decoder_suite", "tests.systems.image_suite"
)
