"""The description of a run or a sweep, and the runs that it stands for."""

import dataclasses
import itertools
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from unijax.core.errors import UserError
from unijax.core.paths import is_address

FOLDER = "launch"  # beside the run directories: what was rendered


@dataclasses.dataclass(frozen=True)
class Machines:
    """What one run stands on.

    Attributes:
      hosts: machines with GPUs or with CPUs alone; of a TPU slice they follow from its topology.
      processes: on each host: 1, or as many as there are GPUs. CPUs: any number.
      gpu: kind of GPU as the engine calls it, such as "h100" (SLURM), "nvidia-h100-80gb" (GKE) or
        "H100" (SkyPilot); "" where the engine need not be told.
      gpus: of one host.
      tpu: slice as kind and topology, such as "v5p:4x4x8"; kinds v5e, v5p and v6e.
      slices: TPU slices.
      cpus: of one process; 0 leaves it to the engine.
      memory_gib: of one host; 0 leaves it to the engine.
    """

    hosts: int = 1
    processes: int = 1
    gpu: str = ""
    gpus: int = 0
    tpu: str = ""
    slices: int = 1
    cpus: int = 0
    memory_gib: int = 0

    def __post_init__(self):
        if self.tpu and (self.gpus or self.hosts != 1 or self.processes != 1):
            raise _mistake("tpu", f"{self.tpu!r} beside hosts, processes or gpus", "tpu alone")
        if self.slices > 1 and not self.tpu:
            raise _mistake("slices", f"{self.slices} without tpu", "slices of a TPU")
        if self.gpus and self.processes not in (1, self.gpus):
            raise _mistake("processes", f"{self.processes} beside gpus={self.gpus}", "1 or gpus")
        if min(self.hosts, self.processes, self.slices) < 1:
            raise _mistake("hosts, processes, slices", "less than 1", "1 or more")
        if min(self.gpus, self.cpus, self.memory_gib) < 0:
            raise _mistake("gpus, cpus, memory_gib", "less than 0", "0 or more")


def _mistake(key: str, found: str, expected: str) -> UserError:
    return UserError(f"machines.{key}", found, expected, "Correct the launch file.")


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often a run is started again, by what ended it (`unijax.core.exit_codes`).

    Where an engine counts some of them together, their sum is its limit. A mistake in the input
    (status 2) is never tried again.

    Attributes:
      preempted: it was told to end, and saved.
      node: a machine, or the way to it, failed.
      bug: anything else.
    """

    preempted: int = 100
    node: int = 5
    bug: int = 0

    def __post_init__(self):
        for name, count in dataclasses.asdict(self).items():
            if count < 0:
                raise UserError(f"retry.{name}", f"{count}", "0 or more", "Correct it.")


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Of the job scripts.

    Attributes:
      hours: time limit of one attempt; a run that reaches it saves and is queued again.
      warning_seconds: SIGTERM comes so long before the limit, and is time enough to save.
      options: further #SBATCH lines, such as "--exclusive".
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    hours: float = 24.0
    warning_seconds: int = 300
    options: tuple[str, ...] = ()

    def __post_init__(self):
        # SLURM takes a limit of 0 for none.
        if not 0 <= self.warning_seconds < self.hours * 3600:
            raise UserError(
                "slurm",
                f"hours {self.hours:g} and warning_seconds {self.warning_seconds}",
                "a time limit, and a warning within it",
                "Correct the launch file.",
            )


@dataclasses.dataclass(frozen=True)
class Gke:
    """Of the JobSets.

    Attributes:
      image: container image that holds the project.
      queue: Kueue LocalQueue; "" for a cluster without Kueue.
      priority: Kueue WorkloadPriorityClass; "" for the queue's own.
      volumes: path in the container -> PersistentVolumeClaim; the run directories must lie in one.
      grace_seconds: between SIGTERM and the end.
    """

    image: str = ""
    namespace: str = "default"
    queue: str = ""
    priority: str = ""
    service_account: str = ""
    volumes: dict[str, str] = dataclasses.field(default_factory=dict)
    grace_seconds: int = 300


@dataclasses.dataclass(frozen=True)
class QueuedResources:
    """Of TPU virtual machines.

    Attributes:
      runtime: software version of the machines.
      capacity: "spot", "reserved" or "on-demand".
      grace_seconds: between SIGTERM and the end.
    """

    project: str = ""
    zone: str = ""
    runtime: str = ""
    capacity: str = "spot"
    service_account: str = ""
    grace_seconds: int = 300

    def __post_init__(self):
        if self.capacity not in ("spot", "reserved", "on-demand"):
            raise UserError(
                "tpu.capacity",
                repr(self.capacity),
                "'spot', 'reserved' or 'on-demand'",
                "Correct the launch file.",
            )


@dataclasses.dataclass(frozen=True)
class Sky:
    """Of the SkyPilot managed jobs.

    Attributes:
      infra: as "gcp/us-central1" or "k8s"; "" lets SkyPilot choose.
      mounts: path -> bucket or volume; the run directories must lie in one.
    """

    infra: str = ""
    spot: bool = True
    image: str = ""
    mounts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Launch:
    """One run, or a sweep.

    Attributes:
      name: of the whole: lower-case letters, digits and dashes.
      command: what every run runs, up to the options that follow below.
      directory: absolute, or of a bucket; every run gets one in it. All machines see it.
      overrides: of the config, for all runs.
      runs: name -> further arguments, where runs differ in more than a grid: options, then changes
        of the config.
      sweep: key of the config -> its values; every combination, of every run in `runs`.
      run_dir_option: gives a run its directory; "" for a command that finds its own by the run's
        further arguments, as `unijax sweep --only` does.
      machines: of each run.
      workdir: where the command starts, on every machine; "" is where `unijax launch` was called.
      setup: shell lines ahead of the command, such as those that enter an environment.
      env: environment variables.
    """

    name: str
    command: str
    directory: str
    overrides: tuple[str, ...] = ()
    runs: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sweep: dict[str, Any] = dataclasses.field(default_factory=dict)
    run_dir_option: str = "--run-dir"
    machines: Machines = dataclasses.field(default_factory=Machines)
    retry: Retry = dataclasses.field(default_factory=Retry)
    workdir: str = ""
    setup: str = ""
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    slurm: Slurm = dataclasses.field(default_factory=Slurm)
    gke: Gke = dataclasses.field(default_factory=Gke)
    tpu: QueuedResources = dataclasses.field(default_factory=QueuedResources)
    sky: Sky = dataclasses.field(default_factory=Sky)

    def __post_init__(self):
        # With "-12345" behind it, a name of Kubernetes (63) with what JobSet adds to it.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", self.name):
            raise UserError(
                "name",
                repr(self.name),
                "up to 32 lower-case letters, digits and dashes, a letter first",
                "Choose another name.",
            )
        if not (self.in_bucket or pathlib.PurePosixPath(self.directory).is_absolute()):
            raise UserError(
                "directory",
                repr(self.directory),
                "an absolute path, as it is the same place on every machine, or an address",
                "Write it in full.",
            )
        _check_lines(dataclasses.asdict(self))
        for run in self.runs:
            if run == FOLDER:
                raise UserError(
                    "runs", repr(run), "another name: rendered files lie there", "Rename it."
                )
            if run != _file_name(run):
                raise UserError(
                    "runs",
                    repr(run),
                    f"the name of a directory, as {_file_name(run)}",
                    "Rename it.",
                )
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise UserError("env", repr(name), "the name of a variable", "Correct it.")
        for key, values in self.sweep.items():
            if not isinstance(values, list | tuple) or not values:
                raise UserError(
                    f"sweep.{key}", repr(values), "a list of values", "Write for example [1, 2]."
                )

    @property
    def in_bucket(self) -> bool:
        """Whether the runs' directories lie in one."""
        return is_address(self.directory)

    def place(self, name: str) -> str:
        """A name in the directory."""
        if self.in_bucket:
            return f"{self.directory.rstrip('/')}/{name}"
        return str(pathlib.PurePosixPath(self.directory) / name)


def on_a_disk(launch: Launch, engine: str) -> None:
    """Raises a UserError for a directory in a bucket, where the engine itself writes into it."""
    if launch.in_bucket:
        raise UserError(
            "directory", repr(launch.directory), f"a path: {engine} writes its logs there",
            "Name a directory that all machines see, or mount the bucket.",
        )  # fmt: skip


def _check_lines(values: Any, key: str = "") -> None:
    """Raises UserError for a text of several lines: each would be a line of a script of its own."""
    inside = values.items() if isinstance(values, dict) else ()
    inside = enumerate(values) if isinstance(values, list | tuple) else inside
    for name, value in inside:
        if key or name not in ("setup", "command", "env"):  # lines of shell; quoted; quoted
            _check_lines(value, f"{key}.{name}" if key else f"{name}")
    if isinstance(values, str) and not values.isprintable():
        raise UserError(key, repr(values), "one line of text", "Correct the launch file.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a launch.

    Attributes:
      index: in the launch, from 0.
      name: of the run directory.
      job: name for engines, `<launch>-<index>`.
      directory: the run directory.
      argv: the whole command.
    """

    index: int
    name: str
    job: str
    directory: str
    argv: tuple[str, ...]


_CHANGE = re.compile(r"\w[\w.]*=")  # of a key of the config


def expand(launch: Launch) -> list[Run]:
    """The runs that a launch stands for, in a fixed order.

    Raises:
      UserError: if two of them would have the same name.
    """
    labels = _labels(list(launch.sweep))
    runs = []
    for name, arguments in (launch.runs or {"": ()}).items():
        for values in itertools.product(*launch.sweep.values()):
            grid = dict(zip(launch.sweep, map(_text, values)))
            parts = [name] if name else []
            parts += [f"{labels[key]}-{_file_name(value)}" for key, value in grid.items()]
            run = "_".join(parts) or "run"
            directory = launch.place(run)
            options = list(itertools.takewhile(lambda x: not _CHANGE.match(x), arguments))
            changes = arguments[len(options) :]
            place = [launch.run_dir_option, directory] if launch.run_dir_option else []
            argv = (
                *shlex.split(launch.command), *options, *place, *launch.overrides,
                *changes, *(f"{k}={v}" for k, v in grid.items()),
            )  # fmt: skip
            runs.append(Run(len(runs), run, f"{launch.name}-{len(runs)}", directory, argv))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError("sweep", f"several runs named {twice[0]!r}", "a name each", "Rename one.")
    return runs


def _text(value: Any) -> str:
    """As the command line of the trainer reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)


def _file_name(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", value).strip("-.") or "none"


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    labels = {}
    for key in keys:
        parts = key.split(".")
        for n in range(1, len(parts) + 1):
            end = parts[-n:]
            if sum(k.split(".")[-n:] == end for k in keys) == 1:
                break
        labels[key] = ".".join(end)
    return labels
