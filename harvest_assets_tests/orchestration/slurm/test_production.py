"""The instance that `docs/production.md` describes: PostgreSQL, a daemon, a real SLURM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harvest_assets_tests.orchestration.slurm import postgres
from harvest_assets_tests.orchestration.slurm.commands import (
    Place,
    memory_of_tree,
    process_of,
    wait_until,
)
from harvest_assets_tests.orchestration.slurm.one_node import OneNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(560)]

DAGSTER_YAML = Path(__file__).parents[3] / "docs/dagster.yaml"
KEY = "local/tiny/aaaaaaaa"
_BACKFILL = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on PythonError { message } ... on LaunchBackfillSuccess { backfillId }
  }
}"""
_RUNS = """{ runsOrError { ... on Runs { results {
  runId status jobName tags { key value }
  assetSelection { path }
} } } }"""
_TERMINATE = """mutation($id: String!, $how: TerminateRunPolicy!) {
  terminateRun(runId: $id, terminatePolicy: $how) {
    __typename ... on TerminateRunFailure { message }
  }
}"""


class Production:
    """The UI and the daemon, asked as the browser asks."""

    def __init__(self, address: str, process: subprocess.Popen) -> None:
        self.address = address
        self.process = process

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            value = json.loads(answer.read())
        assert "errors" not in value, value
        return value["data"]

    def backfill(self, assets: list[str], partitions: list[str]) -> None:
        params = {
            "assetSelection": [{"path": [asset]} for asset in assets],
            "partitionNames": partitions,
        }
        result = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert result["__typename"] == "LaunchBackfillSuccess", result

    def terminate(self, run: dict[str, Any], how: str) -> None:
        result = self.ask(_TERMINATE, id=run["runId"], how=how)["terminateRun"]
        assert result["__typename"] == "TerminateRunSuccess", result

    def runs(self) -> list[dict[str, Any]]:
        """Newest first; `shard` is None for the runs of the other stages."""
        runs = self.ask(_RUNS)["runsOrError"]["results"]
        for run in runs:
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            run["shard"] = tags.get("dagster/partition/shard")
            run["job"] = tags.get("harvest_assets/job")
        return runs

    def statuses(self, shard: str | None) -> list[str]:
        return [run["status"] for run in self.runs() if run["shard"] == shard]


@pytest.fixture
def place(node: OneNode, tiny_run: Path, tmp_path: Path) -> Iterator[Place]:
    reason = postgres.missing()
    if reason:
        pytest.skip(reason)
    with postgres.server() as database:
        settings = {"N_BATCHES": "8", "BATCH_SIZE": "8", "N_SHARDS": "4"}
        place = Place(
            tmp_path,
            tmp_path,
            DAGSTER_HOME=str(tmp_path / "dagster"),
            HARVEST_SLURM_MAX_JOBS="3",
            HARVEST_SLURM_CPUS="1",
            **{f"HARVEST_{name}": value for name, value in settings.items()},
            **database,
            **node.env,
        )
        place.home.mkdir()
        shutil.copy(DAGSTER_YAML, place.home / "dagster.yaml")
        (place.out / "runs").mkdir(parents=True)
        shutil.copytree(tiny_run, place.out / "runs/tiny-aaaaaaaa")
        yield place


@pytest.fixture
def production(place: Place, tmp_path: Path) -> Iterator[Production]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(
        [sys.executable, "-m", "harvest_assets", "register", KEY],
        env=place.env,
        cwd=place.cwd,
        check=True,
        timeout=120,
    )
    log = tmp_path / "ui.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "harvest_assets", "ui", "--port", str(port)],
            env=place.env,
            cwd=place.cwd,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).read()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, 90)
        yield Production(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_production_instance(node: OneNode, place: Place, production: Production):
    production.backfill(["run_checkpoint", "harvest_plan", "token_rows"], [KEY])
    wait_until(lambda: production.statuses(None) == ["SUCCESS"], 120, poll=1)
    assert not any(run["job"] for run in production.runs())

    # The GPUs are somebody else's: shards wait, and of four only three as jobs.
    blocker = node.occupy(2, 500)
    production.backfill(["harvest_shard"], [f"{KEY}|{shard:02d}" for shard in range(4)])
    wait_until(lambda: len(node.jobs(state="PENDING")) == 3, 120, poll=1)
    wait_until(lambda: any(run["status"] == "QUEUED" for run in production.runs()), 30, poll=1)
    time.sleep(8)
    assert len(node.jobs(state="PENDING")) == 3
    print(f"\nUI and daemon: {memory_of_tree(production.process.pid) / 1e6:.0f} MB")

    # Cancelled in the UI while they wait, and by hand.
    waiting = [run for run in production.runs() if run["job"] and run["status"] == "STARTING"]
    by_ui, by_hand = waiting[0], waiting[1]
    production.terminate(by_ui, "MARK_AS_CANCELED_IMMEDIATELY")
    node("scancel", by_hand["job"])
    for run in (by_ui, by_hand):
        wait_until(lambda run=run: production.statuses(run["shard"]) == ["CANCELED"], 60, poll=1)
        wait_until(lambda run=run: run["job"] not in node.jobs(), 60, poll=1)

    # One is terminated in the UI while it works, one is killed and tried again by the daemon.
    node("scancel", blocker)
    wait_until(lambda: "STARTED" in [run["status"] for run in production.runs()], 60)
    working = next(run for run in production.runs() if run["status"] == "STARTED")
    production.terminate(working, "SAFE_TERMINATE")
    wait_until(lambda: production.statuses(working["shard"]) == ["CANCELED"], 60, poll=1)
    (left,) = {f"{n:02d}" for n in range(4)} - {run["shard"] for run in (by_ui, by_hand, working)}
    wait_until(lambda: production.statuses(left) == ["SUCCESS"], 120, poll=1)
    again = [by_ui["shard"], by_hand["shard"], working["shard"]]
    production.backfill(["harvest_shard"], [f"{KEY}|{shard}" for shard in again])
    killed: list[str] = []

    def kill_one_that_works() -> bool:
        for run in production.runs():
            pid = process_of(run["job"]) if run["status"] == "STARTED" else None
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(run["shard"])
                break
        return bool(killed)

    wait_until(kill_one_that_works, 120)
    for shard in again:
        ends = ["SUCCESS", *(["FAILURE"] if shard in killed else []), "CANCELED"]
        wait_until(lambda s=shard, e=ends: production.statuses(s) == e, 150, poll=1)
    merge = ["component_correlations", "token_stats", "activation_contexts", "merged_state"]
    production.backfill(merge, [KEY])
    lines = place.out / "harvest/aaaaaaaa/merged/current.json"
    wait_until(lambda: lines.exists() and "STARTED" not in production.statuses(None), 150, poll=1)
    assert set(production.statuses(None)) == {"SUCCESS"}
    # What looks after runs takes those that wait as they are.
    log = (place.cwd / "ui.log").read_text()
    assert "Collected" in log
    assert "Hit error while monitoring" not in log


def test_what_the_instance_is_made_with_is_what_is_documented(place: Place):
    """The parts for the cluster are the ones that a first command writes by itself."""
    fresh = {**place.env}
    del fresh["DAGSTER_HOME"]
    subprocess.run(
        [sys.executable, "-m", "harvest_assets", "register", KEY],
        env=fresh,
        cwd=place.cwd,
        check=True,
        timeout=120,
    )
    written = yaml.safe_load(
        (place.cwd / ".local/share/harvest_assets/dagster/dagster.yaml").read_text()
    )
    documented = yaml.safe_load(DAGSTER_YAML.read_text())
    assert "postgres" in documented.pop("storage")
    assert documented.pop("retention")
    assert written == documented
