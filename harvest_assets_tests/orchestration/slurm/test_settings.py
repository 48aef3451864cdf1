"""What a deployment says about its cluster reaches `sbatch`; what cannot be meant is refused."""

from __future__ import annotations

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.slurm.settings import SlurmSettings


def settings(monkeypatch: pytest.MonkeyPatch, **given: str) -> SlurmSettings:
    for name, value in given.items():
        monkeypatch.setenv(f"HARVEST_SLURM_{name.upper()}", value)
    return SlurmSettings.from_environment()


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("2:00:00", 120),
        ("1-0", 1440),
        ("1-02:30", 1590),
        ("0-0:0:1", 1),
    ],
)
def test_every_form_of_time_is_read(monkeypatch: pytest.MonkeyPatch, time: str, minutes: int):
    assert settings(monkeypatch, time=time).minutes == minutes


def script_of(parameters: dict) -> str:
    """The script that submitit writes, without a cluster."""
    from submitit.slurm.slurm import _make_sbatch_string

    own = {
        "timeout_min": "time",
        "name": "job_name",
        "cpus_per_task": "cpus_per_task",
    }
    given = {own.get(key, key.removeprefix("slurm_")): value for key, value in parameters.items()}
    return _make_sbatch_string(command="python", folder="/shared/jobs", **given)


def test_they_are_in_the_script(monkeypatch: pytest.MonkeyPatch):
    given = settings(
        monkeypatch,
        partition="a100",
        account="interp",
        qos="low",
        time="4:00:00",
        mem="64G",
        cpus="8",
        gres="gpu:a100:1",
        args="--constraint=nvlink --exclude n1,n2 --exclusive",
        cpu_args="--partition=cpu",
        setup="module load cuda\nsource /opt/env",
    )
    shard = script_of(given.parameters(name="harvest-x-00", comment="about it", gpu=True))
    for line in (
        "#SBATCH --partition=a100",
        "#SBATCH --account=interp",
        "#SBATCH --qos=low",
        "#SBATCH --time=240",
        "#SBATCH --mem=64G",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --constraint=nvlink",
        "#SBATCH --exclude=n1,n2",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@300",
        "#SBATCH --job-name=harvest-x-00",
        "#SBATCH --comment='about it'",
        "module load cuda",
        "source /opt/env",
    ):
        assert line in shard.splitlines()
    merge = script_of(given.parameters(name="m", comment="c", gpu=False))
    assert "--gres" not in merge
    assert "#SBATCH --partition=cpu" in merge.splitlines()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time", "tomorrow"),
        ("time", "0"),
        ("cpus", "many"),
        ("max_jobs", "0"),
        ("stages", "harvest,bake"),
        ("args", "-p main"),
        ("args", "--comment='open"),
        ("cluster", "pbs"),
    ],
)
def test_what_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    with pytest.raises(HarvestError, match=f"HARVEST_SLURM_{name.upper()}"):
        settings(monkeypatch, **{name: value})


def test_only_shards_are_submitted_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch):
    assert settings(monkeypatch).submitted_stages == ("harvest",)
    assert settings(monkeypatch, stages="harvest, merge").submitted_stages == ("harvest", "merge")
    assert settings(monkeypatch, stages="all").submitted_stages == ("prepare", "harvest", "merge")
