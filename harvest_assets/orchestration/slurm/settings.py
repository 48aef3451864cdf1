"""A deployment's settings for its cluster, from the environment."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
from typing import Any, Literal

from pydantic import Field, field_validator

from harvest_assets.settings import ComputeSettings, EnvironmentModel
from harvest_assets.stages import Stage
from harvest_assets.system.gpus import count_gpus

_TIME = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII
)


@functools.cache
def slurm_is_here() -> bool:
    """Whether this machine belongs to a cluster; installed but unconfigured programs do not count.

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


def needs_gpu(stage: Stage | None) -> bool:
    """Whether the job of a stage needs a GPU; None is a run of several stages."""
    harvests = stage in (Stage.HARVEST, None)
    return harvests and ComputeSettings.from_environment().device != "cpu"


class SlurmSettings(EnvironmentModel, env_prefix="HARVEST_SLURM_"):
    """Settings for submitting jobs."""

    partition: str = Field(default="", description="SLURM partition; blank: the cluster's default.")
    account: str = Field(
        default="", description="Account that is charged; blank: the cluster's default."
    )
    qos: str = Field(default="", description="Quality of service; blank: the cluster's default.")
    time: str = Field(
        default="1-00:00:00",
        description=(
            "Time limit of a job, as for `sbatch --time`; a shard that needs longer is requeued "
            "and continues."
        ),
    )
    gres: str = Field(default="gpu:1", description="GPUs requested for a shard, which uses one.")
    cpus: int = Field(default=4, ge=1, description="Cores of a job, and PyTorch threads.")
    mem: str = Field(
        default="",
        description=(
            "Memory of a job, such as `64G`; `--dry-run` reports what a shard needs; blank: the "
            "cluster's default."
        ),
    )
    args: str = Field(
        default="",
        description="Further long options for `sbatch`: `--constraint=a100 --exclude=n7`.",
    )
    setup: str = Field(
        default="", description="Shell commands to run before Python starts: `module load cuda`."
    )
    max_jobs: int = Field(
        default=16, ge=1, description="Maximum number of jobs waiting or running at once."
    )
    stages: str = Field(
        default=Stage.HARVEST.value,
        description=(
            "Stages to submit as jobs, separated by commas: also `prepare` and `merge`, which "
            "request no GPU; or `all`."
        ),
    )
    cpu_args: str = Field(
        default="",
        description=(
            "Further options for jobs without a GPU; they override all others: `--partition=cpu`."
        ),
    )
    save_seconds: int = Field(
        default=300,
        ge=1,
        description=("Seconds before the time limit at which a shard saves; 20 GB take minutes."),
    )
    cluster: Literal["slurm", "local"] = Field(
        default="slurm",
        description="`local`: jobs are processes on this machine, for trying things out.",
    )

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        _minutes(text)
        return text

    @field_validator("stages")
    @classmethod
    def _are_stages(cls, text: str) -> str:
        _stages(text)
        return text

    @field_validator("args", "cpu_args")
    @classmethod
    def _are_options(cls, text: str) -> str:
        _options(text)
        return text

    @property
    def minutes(self) -> int:
        """The time limit of a job in minutes, rounded up."""
        return _minutes(self.time)

    @property
    def submitted_stages(self) -> tuple[Stage, ...]:
        """The stages submitted as jobs."""
        return _stages(self.stages)

    def options(self, *, gpu: bool) -> dict[str, str | bool]:
        """The further options of a job for `sbatch`, by name; they override the other settings.

        Args:
            gpu: whether the job needs a GPU.
        """
        return _options(self.args) | ({} if gpu else _options(self.cpu_args))

    def parameters(self, *, name: str, comment: str, gpu: bool) -> dict[str, Any]:
        """The parameters of submitit's executor for one job.

        Args:
            name: name of the job.
            comment: comment of the job.
            gpu: whether the job needs a GPU.
        """
        if self.cluster == "local":
            # Without a number all GPUs would be hidden; each shard takes a free one.
            return {"timeout_min": self.minutes, "gpus_per_node": count_gpus()}
        options = {"requeue": True, **self.options(gpu=gpu)}
        given = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_mem": self.mem,
            "slurm_gres": self.gres if gpu else "",
            "slurm_setup": [line.strip() for line in self.setup.splitlines() if line.strip()],
        }
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


def _minutes(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("minutes, hours:minutes:seconds or days-hours:minutes")
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match["days"]:
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    elif match["third"]:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    if seconds == 0:
        raise ValueError("more than 0")
    return -(-seconds // 60)


def _stages(text: str) -> tuple[Stage, ...]:
    if text == "all":
        return tuple(Stage)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not set(names) <= set(Stage):
        raise ValueError(f"all, or some of {', '.join(Stage)}")
    return tuple(map(Stage, names))


def _options(text: str) -> dict[str, str | bool]:
    """Parse options as typed after `sbatch`, by name; one without a value is True.

    Raises:
        ValueError: they are not long options.
    """
    expected = "options such as --constraint=a100 --exclusive"
    options: dict[str, str | bool] = {}
    try:
        words = shlex.split(text)
    except ValueError:  # an unbalanced quotation mark
        raise ValueError(expected) from None
    name = None
    for word in words:
        if word.startswith("--") and len(word) > len("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = value if equals else True
        elif name is not None and options[name] is True:
            options[name] = word
        else:
            raise ValueError(expected)
    return options
