"""A plan carried over to twice as many devices: `python -m tests.main.plan_devices`."""

import jax

from tests.main import tiny
from unijax.core.mesh import DATA
from unijax.main import plan as plan_lib
from unijax.main.run import resolve
from unijax.plan import target
from unijax.plan.hardware import Topology


def main() -> None:
    """Compares it with what is compiled for them; here devices are the CPU's, whatever is asked."""
    target.devices = lambda topology: jax.devices()[: topology.size]
    two, four = (Topology("h100", (n,), 1) for n in (2, 4))
    fixed = ("accumulate=2", "mesh.fsdp=2", "mesh.table=fsdp")
    run = resolve(tiny.get_config(), [*fixed, "mesh.data=1", "data.rows=4"])
    larger = resolve(tiny.get_config(), [*fixed, "mesh.data=2", "data.rows=8"])
    base = plan_lib.plan(run, two, {}, None)
    carried = plan_lib.carried_over(base, larger, four)
    compiled = plan_lib.plan(larger, four, {}, None)
    assert not any(DATA in one.axes for one in base.collectives)
    (of_gradients,) = [one for one in carried.collectives if DATA in one.axes]
    # Sums of a few scalars over all devices are what else differs.
    of_all = sum(one.bytes * one.times for one in compiled.collectives if DATA in one.axes)
    assert 1.0 <= of_all / (of_gradients.bytes * of_gradients.times) < 1.01, (of_all, of_gradients)
    for name in ("parameters", "optimizer", "batch", "gradients"):
        assert getattr(carried.memory, name) == getattr(compiled.memory, name), name
    a, b = carried.roofline.seconds_in_turn, compiled.roofline.seconds_in_turn
    assert abs(a / b - 1) < 0.01, (a, b)


if __name__ == "__main__":
    main()
