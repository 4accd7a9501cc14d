"""Processes on this machine: the runs one after another, the processes of each side by side.

Nothing starts a run again here; the same command goes on where it was, and passes what is done.
"""

import pathlib
import shlex

from unijax.core.errors import UserError
from unijax.launch.shell import environment, quoted
from unijax.launch.spec import Launch, Run, expand, on_a_disk

PROGRAM = "bash"
FILE = "local.sh"

_HEAD = """\
#!/bin/bash
@ENVIRONMENT@
set -u
ended=0

free_port() {
    python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
}

# A run directory, then a command: @COUNT@ processes of it. The first one speaks here.
start() {
    local directory="$1" i code failed=0
    shift
    mkdir -p "$directory"
    @JOIN@
    local processes=()
    # Both ask to save and end: what is started with & does not hear Ctrl-C.
    trap 'ended=1; kill -TERM "${processes[@]}" 2>/dev/null' TERM INT
    for ((i = 0; i < @COUNT@; i++)); do
        if [ "$i" = 0 ]; then
            @ONE@"$@" &
        else
            @ONE@"$@" > "$directory/process-$i.log" 2>&1 &
        fi
        processes+=($!)
    done
    for ((i = 0; i < @COUNT@; i++)); do
        # The trap ends a wait early: only a process that is gone has a code to tell.
        while wait "${processes[i]}"; code=$?; kill -0 "${processes[i]}" 2>/dev/null; do :; done
        # The least code tells the cause: who lost a peer ends with a greater one.
        if [ "$code" != 0 ] && { [ "$failed" = 0 ] || [ "$code" -lt "$failed" ]; }; then
            failed="$code"
        fi
    done
    trap - TERM INT
    [ "$failed" = 0 ] || echo "$directory: ended with $failed" >&2
    [ "$ended" = 0 ] || exit "$failed"
    [ "$failed" = 0 ] || first="${first:-$failed}"
}
"""


def render(launch: Launch) -> dict[str, str]:
    """File name -> text.

    Raises:
      UserError: for more than this machine, or a directory in a bucket.
    """
    on_a_disk(launch, "this engine")
    machines = launch.machines
    if machines.hosts > 1 or machines.tpu:
        raise UserError(
            "machines",
            machines.tpu or f"{machines.hosts} hosts",
            "this machine alone",
            "Choose another --engine, or set machines.hosts=1 and machines.processes.",
        )
    count = machines.processes
    several = count > 1
    join = 'export JAX_COORDINATOR_ADDRESS="127.0.0.1:$(free_port)" JAX_NUM_PROCESSES=@COUNT@'
    one = "JAX_PROCESS_ID=$i "
    if machines.gpus > 1 and several:
        one += "JAX_LOCAL_DEVICE_IDS=$i "
    body = _HEAD
    for name, text in {
        "ENVIRONMENT": "\n".join(environment(launch)),
        "JOIN": join if several else ":",
        "ONE": one if several else "",
        "COUNT": str(count),
    }.items():
        body = body.replace(f"@{name}@", text)
    calls = "\n".join(_call(run) for run in expand(launch))
    return {FILE: f'{body}\n{calls}\nexit "${{first:-0}}"\n'}


def commands(launch: Launch, folder: pathlib.Path) -> list[list[str]]:
    """What runs the rendered files, to their end."""
    return [["bash", str(folder / FILE)]]


def _call(run: Run) -> str:
    job = shlex.quote(run.job)
    return f"UNIJAX_JOB={job} start {shlex.quote(run.directory)} {quoted(run.argv)}"
