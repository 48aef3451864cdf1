"""A real SLURM on this machine: one node, two GPUs that are plain files, no accounts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harvest_assets.files.atomic import process_is_alive

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
CPUS = 4

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# The second: how long a requeued job waits before it may start; below 5 it is 120.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
KillWait=30
ReturnToService=2
GresTypes=gpu
# Jobs get more cores than a small machine has; nobody binds them.
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> str | None:
    """Why no SLURM can be started here."""
    absent = [name for name in PROGRAMS if _which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm munge)"
    return None if os.getuid() == 0 else "SLURM's daemons are started by root alone"


class OneNode:
    """The node's daemons, between `start` and `stop`.

    Args:
        folder: of its own; its path is short enough for a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        for number in range(2):
            (self.folder / f"gpu{number}").touch()
        host = socket.gethostname().partition(".")[0]
        (self.folder / "gres.conf").write_text(
            f"NodeName={host} Name=gpu File={self.folder}/gpu[0-1]\n"
        )
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                folder=self.folder,
                host=host,
                cpus=CPUS,
                memory=pages // 2,
                controller_port=_free_port(),
                node_port=_free_port(),
            )
        )
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._program(
            "munged",
            "--force",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.sock",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )
        self._program("slurmctld", "-c")
        self._program("slurmd", "-c")
        deadline = time.monotonic() + 60
        while "idle" not in self("sinfo", "-h", "-o", "%T"):
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.2)

    def stop(self) -> None:
        self.cancel_all()
        for name in ("slurmd", "slurmctld", "munged"):
            with suppress(OSError, ValueError):
                pid = int((self.folder / f"{name}.pid").read_text())
                os.kill(pid, 15)
                _wait_for_end(pid)

    def cancel_all(self) -> None:
        """End all jobs."""
        deadline = time.monotonic() + 60
        while jobs := self.jobs():
            assert time.monotonic() < deadline, jobs
            for job in jobs:
                self("scancel", "--signal=KILL", "--full", job)
                self("scancel", job)
            time.sleep(0.5)

    def __call__(self, *command: str) -> str:
        """What a command of SLURM prints; nothing if it fails."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self, *, state: str | None = None) -> dict[str, str]:
        """Names of the jobs that have not ended, by number."""
        options = ["-t", state] if state else []
        lines = self("squeue", "-h", "-o", "%i|%j", *options).splitlines()
        return dict(line.strip().split("|", 1) for line in lines)

    def occupy(self, gpus: int, seconds: int) -> str:
        """A job of a partition that preempts the other; answers its number."""
        command = ["sbatch", "--parsable", "-p", "urgent", f"--gres=gpu:{gpus}", "-o", "/dev/null"]
        return self(*command, "--wrap", f"sleep {seconds}").strip()

    def _program(self, name: str, *arguments: str) -> None:
        program = _which(name)
        assert program is not None
        subprocess.run(
            [program, *arguments],
            env={**os.environ, **self.env},
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while process_is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.kill(pid, 9)
