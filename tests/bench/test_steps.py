"""Benches of a training step: both sides compute the same, and what was measured is shown."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from bench import contrastive_step, eva_peer, llama_peer, lora_step, metamorph_step, mim_step
from bench.janus_sections import check_losses
from bench.resident import peak_of, resident
from bench.steps import COMPARED, Compared
from tests.long import long

BENCHES = (mim_step, contrastive_step, lora_step, metamorph_step)
PEERS = {"bench.eva_peer": eva_peer.SIDES, "bench.llama_peer": llama_peer.SIDES}

torch.set_num_threads(1)  # models this small only wait for each other


@pytest.fixture(scope="module", params=BENCHES, ids=lambda bench: bench.__name__)
def case(request, tmp_path_factory):
    """A bench, and its case on disk."""
    bench, folder = request.param, tmp_path_factory.mktemp("case")
    bench.write(bench.CASES["quick"], folder, COMPARED)
    return bench, folder


def losses(bench, folder, module: str, side: str) -> list[float]:
    """Of the first steps of a side, in this process."""
    if module == bench.OURS:
        tasks = bench.ours(bench.CASES["quick"], folder, side)
    else:
        tasks = PEERS[module][side](json.loads((folder / "case.json").read_text()), folder)
    return tasks["steps"](COMPARED)["losses"]


def test_both_sides_take_the_same_steps(case):
    """Equal second losses: gradients, clipping and AdamW agree."""
    bench, folder = case
    for group in bench.GROUPS:
        want, *others = (losses(bench, folder, *side) for side in group.values())
        assert abs(want[1] - want[0]) > 1e-4
        for other in others:
            for a, b in zip(other, want, strict=True):
                check_losses(a, b, 1e-5)


def test_ratios_are_of_the_first_of_a_group():
    def replies(*seconds):
        return [{"seconds": s, "losses": [1.0, 1.0]} for s in seconds]

    groups = ({"PyTorch": ("a", "b"), "here": ("c", "d")}, {"other": ("a", "e")})
    taken = {"PyTorch": replies(4.0, 8.0), "here": replies(2.0, 2.0), "other": replies(1.0, 1.0)}
    found = Compared(groups, 0.0, taken, {})
    assert found.over("here", "PyTorch") == "3.00 (2.00 to 4.00)"
    assert found.table("pictures", 3).splitlines()[2:] == [
        "| PyTorch | 3.000 (2.000 to 4.000) | 1.12 (0.75 to 1.50) |  |",
        "| here | 1.000 (1.000 to 1.000) | 3.00 (3.00 to 3.00) | **3.00 (2.00 to 4.00)** |",
        "| other | 0.500 (0.500 to 0.500) | 6.00 (6.00 to 6.00) |  |",
    ]


def test_the_peak_of_a_call_is_seen_after_it():
    """And an earlier, higher one is not."""
    before = resident()
    fill = lambda megabytes: lambda: np.ones(megabytes * 2**17).sum()  # noqa: E731
    found = [(peak_of(fill(megabytes)) - before) / 2**20 for megabytes in (200, 100)]
    assert found == pytest.approx([200, 100], abs=20)


@long
@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.__name__)
def test_a_bench_prints_a_table(bench):
    command = [sys.executable, "-m", bench.__name__, "--quick"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for group in bench.GROUPS:
        for title in group:
            assert f"\n| {title} |" in out
