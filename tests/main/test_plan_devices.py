"""Plans of several devices, in a process that has them."""

from tests import devices
from tests.long import long


@long
def test_a_plan_carried_over_is_what_is_compiled():
    """With the step in parts: the gradients of each are summed over the replicas."""
    devices.run("tests.main.plan_devices", devices=4)
