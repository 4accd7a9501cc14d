"""The quick version of `make chaos`: the toy, killed while it saves and at a random moment."""

import random

from tests.chaos.harness import chaos, check_equal, start

TOY = "tests.train.toy_process"
ARGUMENTS = (
    "--steps", "400", "--pause", "0.01", "--save-every", "20", "--eval-every", "100", "--documents"
)  # fmt: skip


def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alone = start(TOY, whole, ARGUMENTS)
    kills = chaos(TOY, cut, ARGUMENTS, kills=2, chance=random.Random(4), seconds=12)
    assert alone.wait() == 0
    assert any(kill.step > 0 for kill in kills)
    check_equal(cut, whole)
