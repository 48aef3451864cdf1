"""Harvests through a real SLURM: what happens to jobs does not show, and waiting costs little."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets_tests.orchestration.slurm.commands import (
    Place,
    memory_of_tree,
    process_of,
    wait_until,
)
from harvest_assets_tests.orchestration.slurm.one_node import OneNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]

RUN = "local/spd/s-0ddd38e5"
OPTIONS = ["--n_batches", "360", "--batch_size", "16", "--activation_examples_per_component", "50"]


def reference(reference_runs: Path, folder: Path, **env: str) -> Place:
    world = reference_runs / "world"
    place = Place(folder, world, **env)
    (place.out / "runs").mkdir(parents=True)
    cached = world / "spd_out/runs/spd-s-0ddd38e5"
    (place.out / "runs" / cached.name).symlink_to(cached)
    return place


def runs_by_shard(home: Path) -> dict[str, list[dg.DagsterRun]]:
    found: dict[str, list[dg.DagsterRun]] = {}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for run in reversed(instance.get_runs()):
            if "dagster/partition/shard" in run.tags:
                found.setdefault(run.tags["dagster/partition/shard"], []).append(run)
    return found


def log_of(home: Path, run: dg.DagsterRun) -> str:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        entries = instance.all_logs(run.run_id)
    return "\n".join(
        (entry.dagster_event.message if entry.dagster_event else None) or entry.user_message or ""
        for entry in entries
    )


def test_a_harvest_whose_jobs_are_cancelled_killed_and_preempted_equals_a_local_one(
    reference_runs: Path, node: OneNode, tmp_path: Path
):
    at_once = min(4, os.cpu_count() or 1)
    threads = max(1, (os.cpu_count() or 1) // at_once)
    local = reference(reference_runs, tmp_path / "local")
    local.harvest("--local", RUN, *OPTIONS, "--n_shards", "4")

    place = reference(
        reference_runs, tmp_path / "cluster", HARVEST_SLURM_CPUS=str(threads), **node.env
    )
    home = place.home = tmp_path / "cluster/.local/share/harvest_assets/dagster"
    command = place.start(RUN, *OPTIONS, "--n_shards", "4")

    def jobs() -> dict[str, str]:
        return {name.rpartition("-")[2]: job for job, name in node.jobs(state="RUNNING").items()}

    def at_work(shard: str) -> bool:
        return shard in jobs() and place.rows_done(shard) > 50

    # Two GPUs: two shards at once. The first is killed, as when a node runs out of memory.
    wait_until(lambda: at_work("00"), 90)
    killed = process_of(jobs()["00"])
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    # Somebody with more right to the GPUs comes: all jobs that work are preempted.
    wait_until(lambda: at_work("01"), 60)
    preempted = jobs()["01"]
    node.occupy(2, 5)
    wait_until(lambda: preempted in node.jobs(state="PENDING"), 60)
    # One is cancelled by hand.
    wait_until(lambda: at_work("03"), 120)
    node("scancel", jobs()["03"])
    out, _ = command.communicate(timeout=200)
    assert command.returncode == 1, out
    (error,) = [line for line in out.splitlines() if line.startswith("Error: ")]
    assert re.search(r"Job \d+.*\|03, was cancelled", error)

    runs = runs_by_shard(home)
    assert [run.status.value for run in runs["00"]] == ["FAILURE", "SUCCESS"]
    assert [run.status.value for run in runs["01"]] == ["SUCCESS"]
    assert [run.status.value for run in runs["03"]] == ["CANCELED"]
    log = log_of(home, runs["01"][0])
    assert "restarted" in log
    assert "Resumed " in log

    place.harvest(RUN, *OPTIONS, "--n_shards", "4")
    assert "Resumed " in log_of(home, runs_by_shard(home)["03"][1])
    assert place.files() == local.files()


def wait_for_output(command: subprocess.Popen[str], words: str, times: int) -> None:
    """Read the output of a command until the words have appeared that many times."""
    assert command.stdout is not None
    lines: list[str] = []
    while sum(words in line for line in lines) < times:
        lines.append(command.stdout.readline())
        assert lines[-1], lines


def test_sixteen_waiting_shards_cost_the_login_node_little(
    node: OneNode, tiny_run: Path, tmp_path: Path
):
    place = Place(tmp_path, tmp_path, **node.env)
    node.occupy(2, 500)
    wait_until(lambda: node.jobs(state="RUNNING"), 30)
    options = [str(tiny_run), "--n_batches", "16", "--batch_size", "4", "--n_shards", "16"]
    command = place.start(*options)
    wait_for_output(command, "waits as job", 16)
    # The command dies; its jobs do not, and the same command finds them.
    jobs = node.jobs(state="PENDING")
    assert len(jobs) == 16
    command.kill()
    command.communicate()
    command = place.start(*options)
    wait_for_output(command, "already", 16)
    time.sleep(3)
    assert node.jobs(state="PENDING") == jobs
    memory = memory_of_tree(command.pid)
    print(f"\nsixteen waiting shards: {memory / 1e6:.0f} MB on the login node")
    assert memory < 2e9
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 130, out
    wait_until(lambda: not node.jobs(state="PENDING"), 60)
    home = tmp_path / ".local/share/harvest_assets/dagster"
    statuses = {run.status for runs in runs_by_shard(home).values() for run in runs}
    assert statuses == {dg.DagsterRunStatus.CANCELED}
