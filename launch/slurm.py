"""SLURM: one job script, an array where there are several runs.

The controller itself starts a job again that was preempted or lost a node (`--requeue`). What it
cannot know, the exit code of the trainer, the script handles: it asks for its job to be queued
again where the class of the failure has tries left, which it counts in `attempts.txt` in the run
directory, for every submission anew. A job that is being cancelled, or is queued again already, is
left alone.
"""

import pathlib
import shlex

from unijax.core.errors import UserError
from unijax.launch.shell import CLASSIFY, environment, quoted
from unijax.launch.spec import FOLDER, Launch, Run, expand, on_a_disk

PROGRAM = "sbatch"
FILE = "job.sbatch"

_BODY = """\
case "${SLURM_ARRAY_TASK_ID:-0}" in
@CASES@
esac
mkdir -p "$directory"
history="$directory/attempts.txt"
codes="$directory/.codes-$SLURM_JOB_ID"
: > "$codes"
# A task of an array is queued again by this name, not by its own job number.
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    id="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
else
    id="$SLURM_JOB_ID"
fi
export UNIJAX_JOB="$id"
@ENVIRONMENT@
set -u

@CLASSIFY@

# SIGTERM goes to the trainer, which saves; the shells around it stay to tell how it ended.
trap : TERM
srun --kill-on-bad-exit=0 --wait=@WAIT@ bash -c \\
    'trap : TERM; codes="$1"; shift; "$@"; code=$?; echo $code >> "$codes"; exit $code' \\
    task "$codes" "${command[@]}"
code=$?
[ "$code" = 0 ] && { rm -f "$codes"; exit 0; }

why="$(failure "$codes")"
rm -f "$codes"
echo "$(date -Is) job $id exit $code $why" >> "$history"
tries="$(grep -c "job $id .* $why\\$" "$history")"
case "$why" in
preempted) limit=@PREEMPTED@ ;;
node) limit=@NODE@ ;;
bug) limit=@BUG@ ;;
*) limit=0 ;;
esac
echo "$id: $why, $tries of $limit tries used" >&2
if [ "$tries" -le "$limit" ] && [ "$(squeue -h -j "$id" -o %T)" = RUNNING ]; then
    scontrol requeue "$id"
fi
exit "$code"
"""


def render(launch: Launch) -> dict[str, str]:
    """File name -> text.

    Raises:
      UserError: for a TPU, or a directory in a bucket.
    """
    on_a_disk(launch, "SLURM")
    if launch.machines.tpu:
        raise UserError(
            "machines.tpu",
            "a TPU under SLURM",
            "GPUs or CPUs",
            "TPUs are reached by --engine gke, tpu or sky.",
        )
    runs = expand(launch)
    body = _BODY
    for name, text in {
        "CASES": "\n".join(_case(run) for run in runs),
        "ENVIRONMENT": "\n".join(_environment(launch)),
        "CLASSIFY": CLASSIFY,
        "WAIT": str(launch.slurm.warning_seconds),
        "PREEMPTED": str(launch.retry.preempted),
        "NODE": str(launch.retry.node),
        "BUG": str(launch.retry.bug),
    }.items():
        body = body.replace(f"@{name}@", text)
    header = "\n".join(f"#SBATCH {option}" for option in _options(launch, len(runs)))
    return {FILE: f"#!/bin/bash\n{header}\n\n{body}"}


def commands(launch: Launch, folder: pathlib.Path) -> list[list[str]]:
    """What submits the rendered files."""
    logs = launch.place(FOLDER)  # SLURM does not make it
    return [["mkdir", "-p", logs], ["sbatch", str(folder / FILE)]]


def _case(run: Run) -> str:
    name = shlex.quote(run.directory)
    return f"{run.index}) directory={name}\n    command=({quoted(run.argv)}) ;;"


def _environment(launch: Launch) -> list[str]:
    lines = environment(launch)
    if launch.machines.cpus:
        # From 22.05 on, srun does not take it over from the job.
        lines.append(f"export SRUN_CPUS_PER_TASK={launch.machines.cpus}")
    if launch.machines.gpus and launch.machines.processes == 1:
        # Without it, JAX gives a process under SLURM one GPU, whatever it could see.
        every = ",".join(map(str, range(launch.machines.gpus)))
        lines.append(f"export JAX_LOCAL_DEVICE_IDS={every}")
    return lines


def _options(launch: Launch, runs: int) -> list[str]:
    machines, slurm, retry = launch.machines, launch.slurm, launch.retry
    log = "%A_%a" if runs > 1 else "%j"
    gpus = ":".join(["gpu", *([machines.gpu] if machines.gpu else []), str(machines.gpus)])
    options = [
        f"--job-name={launch.name}",
        f"--array=0-{runs - 1}" if runs > 1 else "",
        f"--nodes={machines.hosts}",
        f"--ntasks-per-node={machines.processes}",
        f"--gres={gpus}" if machines.gpus else "",
        f"--cpus-per-task={machines.cpus}" if machines.cpus else "",
        f"--mem={machines.memory_gib}G" if machines.memory_gib else "",
        f"--time={_time(slurm.hours)}",
        f"--partition={slurm.partition}" if slurm.partition else "",
        f"--account={slurm.account}" if slurm.account else "",
        f"--qos={slurm.qos}" if slurm.qos else "",
        "--output=" + shlex.quote(f"{launch.directory}/launch/{log}.out"),
        "--open-mode=append",
        f"--signal=TERM@{slurm.warning_seconds}",
        "--requeue" if retry.preempted or retry.node else "--no-requeue",
        *slurm.options,
    ]
    return [option for option in options if option]


def _time(hours: float) -> str:
    minutes = round(hours * 60)
    days, minutes = divmod(minutes, 24 * 60)
    return f"{days}-{minutes // 60:02d}:{minutes % 60:02d}:00"
