"""TPU virtual machines by queued resources: a request for each run.

A request has no retries of its own. On each machine systemd runs the trainer and starts it again by
exit code; where the machines themselves are taken away (spot capacity), the request is SUSPENDED,
and the same `unijax launch` asks anew for those runs alone.
"""

import pathlib

from unijax.core import exit_codes
from unijax.core.errors import UserError
from unijax.launch import tpu_slices
from unijax.launch.shell import environment, quoted
from unijax.launch.spec import Launch, Run, expand

PROGRAM = "gcloud"
FILE = "submit.sh"

_UNIT = """\
[Unit]
Description=@RUN@
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=infinity
StartLimitBurst=@STARTS@

[Service]
ExecStart=/bin/bash /var/lib/unijax/run.sh
@RESTART@
RestartSec=10
TimeoutStopSec=@GRACE@
KillMode=mixed
"""

_STARTUP = """\
#!/bin/bash
# Runs on every machine of the slice, at every start of the machine.
set -eu
mkdir -p /var/lib/unijax
cat > /var/lib/unijax/run.sh << 'END_OF_RUN'
set -e
@SCRIPT@
END_OF_RUN
cat > /etc/systemd/system/unijax.service << 'END_OF_UNIT'
@UNIT@END_OF_UNIT
systemctl daemon-reload
systemctl start unijax.service
"""

_SUBMIT = """\
#!/bin/bash
set -eu
cd "$(dirname "$0")"
request=(gcloud compute tpus queued-resources)

ask() {  # name of the request, startup script
    local state
    state="$("${request[@]}" describe "$1" @PLACE@ --format='value(state.state)' 2>/dev/null || :)"
    case "$state" in
    "") ;;
    SUSPENDED | FAILED) "${request[@]}" delete "$1" @PLACE@ --force --quiet ;;
    *) echo "$1: $state"; return ;;
    esac
    "${request[@]}" create "$1" @PLACE@ \\
        @OPTIONS@ \\
        --metadata-from-file=startup-script="$2"
}
"""


def render(launch: Launch) -> dict[str, str]:
    """File name -> text.

    Raises:
      UserError: where the section `tpu` lacks what has no default, or for anything but a TPU.
    """
    if not launch.machines.tpu:
        raise UserError("machines.tpu", "none", "a TPU slice, as v5p:4x4x8", "Name it.")
    for key in ("project", "zone", "runtime"):
        if not getattr(launch.tpu, key):
            raise UserError(f"tpu.{key}", "none", "what gcloud takes", "Name it.")
    runs = expand(launch)
    files = {f"startup-{run.index}.sh": _startup(launch, run) for run in runs}
    calls = [f"ask {run.job} startup-{run.index}.sh" for run in runs]
    place = quoted([f"--project={launch.tpu.project}", f"--zone={launch.tpu.zone}"])
    submit = _SUBMIT.replace("@PLACE@", place).replace("@OPTIONS@", _options(launch))
    return files | {FILE: "\n".join([submit, *calls]) + "\n"}


def commands(launch: Launch, folder: pathlib.Path) -> list[list[str]]:
    """What submits the rendered files."""
    return [["bash", str(folder / FILE)]]


def _options(launch: Launch) -> str:
    """Of a request, as shell in which $1 is its name."""
    part = tpu_slices.parse(launch.machines.tpu)
    slices, tpu = launch.machines.slices, launch.tpu
    options = [
        f"--accelerator-type={part.accelerator}",
        f"--runtime-version={tpu.runtime}",
    ]
    if tpu.capacity != "on-demand":
        options.append(f"--{tpu.capacity}")
    if tpu.service_account:
        options.append(f"--service-account={tpu.service_account}")
    node = f'--node-count={slices} --node-prefix="$1"' if slices > 1 else '--node-id="$1"'
    return f"{quoted(options)} {node}"


def _startup(launch: Launch, run: Run) -> str:
    lines = [
        *environment(launch, run),
        "export UNIJAX_DISTRIBUTED=1",
        f"exec {quoted(run.argv)}",
    ]
    unit = (
        _UNIT.replace("@RUN@", run.job)
        .replace("@STARTS@", str(1 + launch.retry.preempted + launch.retry.node + launch.retry.bug))
        .replace("@RESTART@", _restart(launch))
        .replace("@GRACE@", str(launch.tpu.grace_seconds))
    )
    return _STARTUP.replace("@SCRIPT@", "\n".join(lines)).replace("@UNIT@", unit)


def _restart(launch: Launch) -> str:
    """Whatever ended a run, systemd counts all starts together."""
    retry = launch.retry
    again: list[int | str] = []
    # A signal that the trainer did not catch is told by its name here, not by 128 + its number.
    if retry.preempted:
        again += [*exit_codes.PREEMPTION, "SIGTERM"]
    if retry.node:
        again += [*exit_codes.NODE_FAILURE, "SIGABRT", "SIGBUS", "SIGKILL"]
    lines = [f"Restart={'on-failure' if retry.bug else 'no'}"]
    if again:
        lines.append(f"RestartForceExitStatus={' '.join(map(str, again))}")
    if retry.bug:
        lines.append(f"RestartPreventExitStatus={exit_codes.MISTAKE}")
    return "\n".join(lines)
