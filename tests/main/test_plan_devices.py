"""Plans of several devices, in a process that has them."""

import os
import subprocess
import sys


def test_a_plan_carried_over_is_what_is_compiled():
    """With the step in parts: the gradients of each are summed over the replicas."""
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.main.plan_devices"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
