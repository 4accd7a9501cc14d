"""Systems beside each other: what the page says of each, and configs that cannot stand together."""

import pathlib

import pytest

from tests.main import tiny
from unijax.core.errors import UserError
from unijax.main.gallery import gallery

TINY = pathlib.Path(tiny.__file__)


def test_two_configs_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="two of one file name"):
        gallery([str(TINY), f"{TINY}:"], (), tmp_path)
