"""Attention over 8 devices equals that of one: rows, heads or positions split."""

import os
import subprocess
import sys


def test_split_over_devices_equals_one():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.ops.attention_devices"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.stdout.strip() == "equal", run.stderr[-3000:]
