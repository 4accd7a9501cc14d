"""SkyPilot: a managed job for each run.

SkyPilot itself starts a job again whose machines are gone. Exit codes it is told by
`job_recovery`: those that never count towards a limit, and how often any other may come.
"""

import pathlib
from typing import Any

from unijax.core import exit_codes
from unijax.core.errors import UserError
from unijax.launch import tpu_slices
from unijax.launch.shell import PORT, environment, quoted
from unijax.launch.spec import Launch, Run, expand
from unijax.launch.yaml_text import dump

PROGRAM = "sky"


def render(launch: Launch) -> dict[str, str]:
    """File name -> text.

    Raises:
      UserError: for more than one process on a host.
    """
    if launch.machines.processes != 1:
        raise UserError(
            "machines.processes",
            f"{launch.machines.processes}",
            "1 on each host, with all its GPUs",
            "Leave it out.",
        )
    return {_file(run): dump([_task(launch, run)]) for run in expand(launch)}


def commands(launch: Launch, folder: pathlib.Path) -> list[list[str]]:
    """What submits the rendered files."""
    return [
        ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", run.job,
         str(folder / _file(run))]
        for run in expand(launch)
    ]  # fmt: skip


def _file(run: Run) -> str:
    return f"sky-{run.index}.yaml"


def _task(launch: Launch, run: Run) -> dict[str, Any]:
    machines, sky = launch.machines, launch.sky
    resources: dict[str, Any] = {"use_spot": sky.spot, "job_recovery": _recovery(launch)}
    if sky.infra:
        resources["infra"] = sky.infra
    if sky.image:
        resources["image_id"] = sky.image
    if machines.cpus:
        resources["cpus"] = f"{machines.cpus}+"
    if machines.memory_gib:
        resources["memory"] = f"{machines.memory_gib}+"
    nodes = machines.hosts
    if machines.tpu:
        resources["accelerators"] = f"{tpu_slices.parse(machines.tpu).sky}:1"
        nodes = machines.slices
        join = ["export UNIJAX_DISTRIBUTED=1"]
    else:
        if machines.gpus:
            if not machines.gpu:
                raise UserError("machines.gpu", "none", "a kind of GPU, as H100", "Name it.")
            resources["accelerators"] = f"{machines.gpu}:{machines.gpus}"
        join = _coordinator() if nodes > 1 else []
    task: dict[str, Any] = {
        "name": run.job,
        "workdir": ".",
        "num_nodes": nodes,
        "resources": resources,
    }
    if sky.mounts:
        task["file_mounts"] = dict(sky.mounts)
    lines = [*environment(launch, run), *join, quoted(run.argv)]
    return task | {"run": "\n".join(lines) + "\n"}


def _recovery(launch: Launch) -> dict[str, Any]:
    retry = launch.retry
    always: list[int] = []
    if retry.preempted:
        always += exit_codes.PREEMPTION
    if retry.node:
        # Not 137: a machine that is gone SkyPilot sees itself; what is left is too little memory.
        always += [code for code in exit_codes.NODE_FAILURE if code != 137]
    recovery: dict[str, Any] = {"max_restarts_on_errors": retry.bug}
    if always:
        recovery["recover_on_exit_codes"] = sorted(always)
    return recovery


def _coordinator() -> list[str]:
    return [
        f'export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"',
        'export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"',
    ]
