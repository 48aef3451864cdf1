"""Where there is no SLURM submitit's local mode takes its place: jobs are processes."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.orchestration.slurm.settings import slurm_is_here
from harvest_assets_tests.cli.test_command import command as harvest_command
from harvest_assets_tests.cli.test_command import refused
from harvest_assets_tests.orchestration.slurm.commands import Place


@pytest.mark.slow
def test_shards_are_jobs_and_the_ui_shows_where_their_output_is(tiny_run: Path, tmp_path: Path):
    place = Place(
        tmp_path, tmp_path, DAGSTER_HOME=str(tmp_path / "dagster"), HARVEST_SLURM_CLUSTER="local"
    )
    options = ["--n_batches", "4", "--batch_size", "8", "--n_shards", "2"]
    out = place.harvest("--slurm", str(tiny_run), *options)
    assert "Harvesting as jobs" in out
    assert all((place.root / name).stat().st_size for name in ("plan.json", "manifest.json"))
    with dg.DagsterInstance.from_config(str(place.home)) as instance:
        runs = [run for run in instance.get_runs() if run.job_name == "harvest"]
        for run in runs:
            assert run.tags["harvest_assets/cluster"] == "local"
            (metadata,) = [
                entry.dagster_event.engine_event_data.metadata
                for entry in instance.all_logs(run.run_id)
                if entry.dagster_event and "Waiting as job" in (entry.dagster_event.message or "")
            ]
            job = run.tags["harvest_assets/job"]
            assert Path(metadata["stderr"].value).name == f"{job}_0_log.err"
            assert "RUN_SUCCESS" in Path(metadata["stderr"].value).read_text()
    assert {run.tags["dagster/partition/shard"] for run in runs} == {"00", "01"}
    assert all(run.is_success for run in runs)


@pytest.mark.skipif(slurm_is_here(), reason="this machine is one of a cluster")
def test_jobs_need_a_cluster(tiny_run: Path, tmp_path: Path):
    place = Place(tmp_path, tmp_path)
    refused(harvest_command("--slurm", str(tiny_run), env=place.env), "SLURM", "--local")
    assert not place.out.exists()


def test_settings_are_checked_before_anything_is_started(tiny_run: Path, tmp_path: Path):
    place = Place(tmp_path, tmp_path, HARVEST_SLURM_TIME="soon")
    refused(harvest_command("--slurm", str(tiny_run), env=place.env), "HARVEST_SLURM_TIME", "soon")
    assert not place.out.exists()
