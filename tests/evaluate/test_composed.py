"""Scores of what was never seen together."""

import pytest

from unijax.evaluate import composed


@pytest.mark.parametrize(
    ("words", "tone"),
    [
        (" waving hand medium light skin tone ", "medium light"),
        (" ear light skin tone ", "light"),
        (" red apple ", ""),
    ],
)
def test_the_tone_of_a_name_is_all_its_words(words, tone):
    assert composed._tone(words) == tone
