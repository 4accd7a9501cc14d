"""A measured step beside its plan: real rows of any config's shape, a table with both."""

import json

from bench import train_step
from tests.long import long
from unijax.main import config as config_lib
from unijax.main.run import resolve

TINY = (
    "model.text.hidden_size=32", "model.text.num_hidden_layers=1", "model.text.head_dim=16",
    "model.text.num_attention_heads=2", "model.text.num_key_value_heads=2",
    "model.text.intermediate_size=32", "model.vision.num_hidden_layers=1",
    "model.vq.base_channels=32", "model.vq.channel_multiplier=1,1,1,1", "data.rows=1",
)  # fmt: skip


@long
def test_steps_are_taken_on_shipped_data_and_counted():
    run = train_step.with_shipped_data(
        resolve(config_lib.load("configs/janus_demo.py"), list(TINY))
    )
    assert {source.kind for source in run.data.sources} == {"scenes", "shipped"}
    found, waited = train_step.measure(run, 2)
    assert 0 < found.seconds <= found.slow_seconds
    assert 0.5 < found.tokens / run.data.row_length <= 1
    decoder = 4 * 32 * 32 + 3 * 32 * 32
    assert found.flops > 6 * decoder * found.tokens
    assert found.mfu is None
    assert 0 <= waited < 1


def test_a_plan_is_read_beside_what_was_measured(monkeypatch):
    asked = []

    def plan(command, **_):
        asked.extend(command)
        path = command[command.index("--json") + 1]
        line = {"seconds": 0.38, "seconds_in_turn": 0.40, "mfu": 0.77}
        parts = {"decoder": {"true": 3e14}, "text head": {"true": 1e13}}
        body = {"roofline": line, "parts": parts, "amount": 31000.0, "memory": {"total": 2**35}}
        with open(path, "w") as file:
            json.dump({"plan": body, "nearest": None}, file)

    monkeypatch.setattr(train_step.subprocess, "run", plan)
    plan = train_step.planned(train_step.CONFIG, "h200:1", list(train_step.ONE_GPU))
    assert asked[-2:] == list(train_step.ONE_GPU)
    measured = train_step.Step(0.6, 0.7, 3.1e14, 31000, 0.522, None)
    table = train_step.lines(measured, plan)
    assert table[2] == "| step, s (median; all at once) | 0.600 | 0.380 |"
    assert table[5] == "| true GFLOP a token | 10.00 | 10.00 |"
    assert table[6] == "| MFU, true FLOPs | 52.2% | 77.0% |"
    assert table[7] == "| GiB a device |  | 32.0 |"


def test_without_a_plan_the_measured_step_stands_alone(monkeypatch):
    monkeypatch.setattr(train_step.subprocess, "run", lambda command, **_: None)
    assert train_step.planned("c", "h200:1", []) is None
    assert train_step.lines(train_step.Step(1.0, 1.0, 1e9, 10, None, None), None)[2].endswith(
        "|  |"
    )
