"""A deployment's settings for its cluster, from the environment."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from harvest_assets.errors import HarvestError
from harvest_assets.stages import Stage
from harvest_assets.system.gpus import count_gpus

_CLUSTERS = ("slurm", "local")
_TIME = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII
)


@functools.cache
def slurm_is_here() -> bool:
    """Whether this machine belongs to a cluster; the programs alone, unconfigured, do not count.

    A controller that does not answer counts.
    """
    scontrol = shutil.which("scontrol")
    if shutil.which("sbatch") is None or scontrol is None:
        return False
    try:
        ping = subprocess.run(
            [scontrol, "ping"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return ping.returncode == 0 or "configuration source" not in ping.stderr


@dataclass(frozen=True)
class SlurmSettings:
    """How jobs are submitted; each field is `HARVEST_SLURM_<FIELD>` in the environment.

    Args:
        partition: of SLURM; empty: the cluster's default, as for the next two.
        account: that is charged.
        qos: quality of service.
        time: limit of a job, in a form that `sbatch --time` takes.
        mem: memory of a job (`64G`); empty: the cluster's default.
        cpus: cores of a job, and threads of PyTorch.
        gres: what a shard asks for.
        args: further options of `sbatch`, for every job.
        cpu_args: further options for jobs without a GPU; they win over all others.
        setup: lines of shell that run before Python does (`module load cuda`).
        max_jobs: that wait or run at once.
        stages: which are submitted: `harvest`, `prepare`, `merge`, with commas, or `all`.
            Only the first asks for a GPU.
        save_seconds: how long before its time limit a shard is signalled to save.
        cluster: `slurm`, or `local`: jobs are processes of this machine.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = "1-00:00:00"
    mem: str = ""
    cpus: int = 4
    gres: str = "gpu:1"
    args: str = ""
    cpu_args: str = ""
    setup: str = ""
    max_jobs: int = 16
    stages: str = Stage.HARVEST.value
    save_seconds: int = 300
    cluster: str = "slurm"

    @classmethod
    def from_environment(cls) -> SlurmSettings:
        """The deployment's settings.

        Raises:
            HarvestError: a variable has a value that is not valid.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = os.environ.get(_variable(field.name), "").strip()
            if text:
                given[field.name] = (
                    _whole(field.name, text) if isinstance(field.default, int) else text
                )
        settings = cls(**given)
        settings.check()
        return settings

    def check(self) -> None:
        """Check that every setting can be used.

        Raises:
            HarvestError: one cannot.
        """
        self.minutes  # noqa: B018
        self.submitted_stages  # noqa: B018
        _options("args", self.args)
        _options("cpu_args", self.cpu_args)
        if self.cluster not in _CLUSTERS:
            _refuse("cluster", self.cluster, f"one of {', '.join(_CLUSTERS)}")

    @property
    def minutes(self) -> int:
        """The time limit of a job in minutes, rounded up.

        Raises:
            HarvestError: it has none of the forms that `sbatch --time` takes.
        """
        match = _TIME.fullmatch(self.time)
        if match is None:
            _refuse("time", self.time, "minutes, hours:minutes:seconds or days-hours:minutes")
        days, first, second, third = (int(part or 0) for part in match.groups())
        if match["days"]:
            seconds = ((days * 24 + first) * 60 + second) * 60 + third
        elif match["third"]:
            seconds = (first * 60 + second) * 60 + third
        else:
            seconds = first * 60 + second
        if seconds == 0:
            _refuse("time", self.time, "more than 0")
        return -(-seconds // 60)

    @property
    def submitted_stages(self) -> tuple[Stage, ...]:
        """The stages that become jobs.

        Raises:
            HarvestError: a name is not that of a stage.
        """
        if self.stages == "all":
            return tuple(Stage)
        names = [name.strip() for name in self.stages.split(",") if name.strip()]
        if not set(names) <= set(Stage):
            _refuse("stages", self.stages, f"all, or some of {', '.join(Stage)}")
        return tuple(map(Stage, names))

    def parameters(self, *, name: str, comment: str, gpu: bool) -> dict[str, Any]:
        """The parameters of submitit's executor for one job.

        Args:
            name: of the job.
            comment: of the job.
            gpu: whether it needs one.
        """
        if self.cluster == "local":
            # Without a number all GPUs would be hidden; each shard takes one that is free.
            return {"timeout_min": self.minutes, "gpus_per_node": count_gpus()}
        options = {"requeue": True, **_options("args", self.args)}
        given = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_mem": self.mem,
            "slurm_gres": self.gres if gpu else "",
            "slurm_setup": [line.strip() for line in self.setup.splitlines() if line.strip()],
        }
        if not gpu:
            options |= _options("cpu_args", self.cpu_args)
        return {
            "name": name,
            "timeout_min": self.minutes,
            "slurm_comment": comment,
            "slurm_signal_delay_s": self.save_seconds,
            "cpus_per_task": self.cpus,
            # Since SLURM 22.05 a step does not get its job's cores unless it asks for them.
            "slurm_srun_args": [f"--cpus-per-task={self.cpus}"],
            "slurm_additional_parameters": options,
            **{key: value for key, value in given.items() if value},
        }


def _variable(field: str) -> str:
    return f"HARVEST_SLURM_{field.upper()}"


def _refuse(field: str, value: str, expected: str) -> NoReturn:
    raise HarvestError(f"{_variable(field)} is {value!r}; it must be {expected}.")


def _whole(field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        _refuse(field, text, "a whole number above 0")
    return int(text)


def _options(field: str, text: str) -> dict[str, str | bool]:
    """Options as they are typed after `sbatch`, by name; one without a value is True.

    Raises:
        HarvestError: they are not long options.
    """
    expected = "options such as --constraint=a100 --exclusive"
    options: dict[str, str | bool] = {}
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark without its partner
        _refuse(field, text, expected)
    name = None
    for word in words:
        if word.startswith("--") and len(word) > len("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = value if equals else True
        elif name is not None and options[name] is True:
            options[name] = word
        else:
            _refuse(field, text, expected)
    return options
