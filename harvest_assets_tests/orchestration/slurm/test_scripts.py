"""A job's script holds nothing that a shell would take for a command, whatever a run is called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.store.registry import register
from harvest_assets.wandb_client.run_name import parse_run

FOLDERS = [
    "a\ntouch pwned\n#b",
    "a'\ntouch pwned\n'",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a\\\ntouch pwned",
    "a\r\ntouch pwned",
    "a --wrap=touch pwned",
    "a\n#SBATCH --wrap=pwned",
    "a\u2028touch pwned\x1b[2J",
    "%x %j",
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that take the place of SLURM's: what is submitted is executed at once by a shell."""
    programs = tmp_path / "programs"
    programs.mkdir()
    scripts = {
        "sbatch": 'cp "$1" "$SCRIPT" && bash "$1" && echo "Submitted batch job 1"',
        "srun": "exit 0",
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("SCRIPT", str(tmp_path / "script"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def submitted(run: Path, out_name: str | None = None, name: str | None = None) -> None:
    registration = register(parse_run(str(run)), out_name, name)
    with dg.DagsterInstance.ephemeral() as instance:
        add_run(instance, registration.key)
        job = defs.resolve_job_def("harvest")
        run_of_dagster = jobs.create_run(instance, job, f"{registration.key}|03", {}, {})
        jobs.submit(instance, run_of_dagster, SlurmSettings())


@pytest.mark.parametrize("name", FOLDERS)
def test_no_line_is_a_runs(cluster: Path, tmp_path: Path, out_dir: Path, name: str):  # noqa: ARG001
    run = tmp_path / name / "run"
    run.mkdir(parents=True)
    submitted(run)
    assert list(cluster.iterdir()) == []
    script = (tmp_path / "script").read_text()
    lines = [line for line in script.split("\n") if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines] == ["export", "srun"]
    (comment,) = [line for line in script.split("\n") if line.startswith("#SBATCH --comment=")]
    # What `sbatch` reads is one word.
    quoted = comment.partition("=")[2]
    plain = subprocess.run(["printf %s " + quoted], shell=True, capture_output=True, check=True)  # noqa: S602
    assert plain.stdout.decode().startswith("local/run/x-")
    assert script.count("#SBATCH --wrap") == 0


def test_a_further_harvest_has_jobs_of_its_own(cluster: Path, tmp_path: Path, out_dir: Path):
    run = tmp_path / "run"
    run.mkdir()
    submitted(run, name="dense; touch pwned $(touch pwned)")
    assert list(cluster.iterdir()) == []
    (folder,) = (out_dir / "harvest").iterdir()
    assert folder.name.endswith("@dense; touch pwned $(touch pwned)")
    lines = (tmp_path / "script").read_text().split("\n")
    (job,) = [line for line in lines if line.startswith("#SBATCH --job-name=")]
    assert "@dense" in job
    assert job.rstrip("'").endswith("-03")
    (output,) = [line for line in lines if line.startswith("#SBATCH --output=")]
    assert str(folder).split(";", maxsplit=1)[0] in output


@pytest.mark.parametrize(
    "name", ["../x", "/x", "..", ".", ".x", "x\n", "a\nb", "a\x00b", "x" * 250, "a/b", " a"]
)
def test_a_folder_of_results_is_a_plain_name(tmp_path: Path, out_dir: Path, name: str):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(HarvestError, match="--out_name"):
        register(parse_run(str(run)), name)
    assert not out_dir.exists() or not list(out_dir.rglob("*.json"))


def test_what_slurm_would_replace_is_refused(cluster: Path, tmp_path: Path, out_dir: Path):  # noqa: ARG001
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(HarvestError, match="script"):
        submitted(run, "100%j")
