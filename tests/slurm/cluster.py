"""A SLURM of one node on this machine, in a folder of its own; nothing of the system is touched."""

import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=localhost PriorityTier=10 State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Cluster:
    """Entering starts the daemons, leaving ends them.

    Attributes:
      environment: in which SLURM's programs find this cluster.
    """

    def __init__(self, place: pathlib.Path):
        self._place = place
        self._daemons: list[subprocess.Popen] = []
        self.environment = os.environ | {
            "SLURM_CONF": str(place / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def __enter__(self) -> "Cluster":
        place = self._place
        for name in ("state", "spool"):
            (place / name).mkdir(parents=True)
        key = place / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        controller, daemon = _free_ports(2)
        values = {"place": place, "controller": controller, "daemon": daemon}
        text = _CONFIGURATION.format(host=socket.gethostname().split(".")[0], **values)
        (place / "slurm.conf").write_text(text)
        try:
            self._start(
                "munged", "--foreground", "--force", f"--key-file={key}",
                f"--socket={place}/munge.socket", f"--pid-file={place}/munged.pid",
                f"--log-file={place}/munged.log", f"--seed-file={place}/munged.seed",
            )  # fmt: skip
            self._until("the socket of munged", (place / "munge.socket").exists)
            self._start("slurmctld", "-D", "-f", f"{place}/slurm.conf")
            self._start("slurmd", "-D", "-f", f"{place}/slurm.conf", "-N", "localhost")
            self._until(
                "a node that is idle", lambda: "idle" in self.call("sinfo", "-h", "-o", "%T")
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.call("scancel", "--signal=KILL", "--full", "--user=root")
        self.call("scancel", "--user=root")
        for _ in range(300):
            if not self.call("squeue", "-h"):
                break
            time.sleep(0.1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(60)

    def call(self, *argv: str) -> str:
        """The output of one of SLURM's programs; "" where it failed."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _start(self, *argv: str) -> None:
        log = (self._place / f"{argv[0]}.out").open("w")
        self._daemons.append(subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log))

    def _until(self, what: str, there) -> None:
        for _ in range(300):
            if there():
                return
            time.sleep(0.1)
        logs = "\n".join(p.read_text()[-2000:] for p in self._place.glob("*.out"))
        raise TimeoutError(f"no {what}\n{logs}")


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports
