"""Runs whose process died, alone or with its code server, are noticed and tried again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, WILL_RETRY_TAG

from harvest_assets.files.lease import process_started
from harvest_assets.orchestration.dagster_private import GRPC_INFO_TAG, EngineEventData
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.orphaned_runs import (
    dead_runs_ended,
    end_dead_runs,
    owner_tags,
    record_owner,
)
from harvest_assets.orchestration.slurm import requeue
from harvest_assets_tests.orchestration.slurm.commands import wait_until

RETRIES = {"run_retries": {"enabled": True, "max_retries": 3}}
ME = owner_tags()
PREFIX = "harvest_assets/"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=RETRIES) as instance:
        yield instance


@dg.asset
@refuses_bad_input
def made_here(context: dg.AssetExecutionContext) -> None:
    """Fails unless an error of this run's process would be noticed."""
    assert end_dead_runs(context.instance) == []
    run = context.instance.get_run_by_id(context.run.run_id)
    assert run.tags.items() >= ME.items()


def started(instance: dg.DagsterInstance, tags: dict[str, str], parent: str | None = None) -> str:
    """A run in progress that has these tags."""
    if parent is not None:
        tags = {**tags, PARENT_RUN_ID_TAG: parent}
    run = instance.create_run_for_job(
        dg.Definitions([made_here]).resolve_implicit_global_asset_job_def(),
        tags=tags,
        parent_run_id=parent,
        root_run_id=parent,
        status=dg.DagsterRunStatus.STARTING,
    )
    start = DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    instance.report_dagster_event(start, run.run_id)
    return run.run_id


def test_a_run_whose_process_died_is_tried_again(instance: dg.DagsterInstance):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = {**ME, PREFIX + "pid": str(gone.pid), PREFIX + "started": "1"}
    # Another process has its number by now.
    reused = started(instance, {**ME, PREFIX + "started": "1"})
    died = started(instance, dead)
    alive = [
        started(instance, ME),
        started(instance, {**dead, PREFIX + "host": "container_b"}),
        started(instance, {}),
        started(instance, dead, parent=died),  # retried; has not recorded its own process yet
    ]
    assert set(end_dead_runs(instance)) == {reused, died}
    assert end_dead_runs(instance) == []
    for run_id in (reused, died):
        run = instance.get_run_by_id(run_id)
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert run.tags[WILL_RETRY_TAG] == "true"
    for run_id in alive:
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED


HERE, ELSEWHERE = {"host": "localhost", "socket": "of_server"}, {"host": "b", "port": 4000}


def test_a_process_that_died_with_its_code_server_before_it_recorded_itself(
    instance: dg.DagsterInstance,
):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def launched(
        server: dict[str, object], pids: list[int], parent: str | None = None, **tags: str
    ) -> str:
        run_id = started(instance, {**tags, GRPC_INFO_TAG: json.dumps(server)}, parent)
        for pid in pids:
            run = instance.get_run_by_id(run_id)
            data = EngineEventData({"pid": dg.MetadataValue.text(str(pid))})
            instance.report_engine_event("Started process.", run, data)
        return run_id

    dead = {**ME, PREFIX + "started": "1"}
    died = started(instance, dead)
    deleted = started(instance, dead)
    lost = [
        launched(HERE, [gone.pid]),
        launched(HERE, [gone.pid, gone.pid]),  # queued again
        launched(HERE, [gone.pid], died, **dead),
        launched(HERE, [gone.pid], deleted, **dead),
    ]
    others = [
        launched(HERE, [os.getpid()]),
        launched(HERE, [gone.pid, os.getpid()]),
        launched(HERE, [os.getpid(), gone.pid]),  # a step in a process of its own
        launched(HERE, [os.getpid()], died, **dead),
        launched(HERE, [os.getpid()], deleted, **dead),
        launched(HERE, []),
        launched(ELSEWHERE, [gone.pid]),
        started(instance, {}),
    ]
    instance.delete_run(deleted)
    assert end_dead_runs(instance) == [died]
    assert set(end_dead_runs(instance, [*lost, *others])) == set(lost)


def test_the_places_of_runs_that_ended_are_free_again(instance: dg.DagsterInstance):
    """A process that is killed does not give its place in a pool back; Dagster ends its run."""
    pools = instance.event_log_storage
    pools.set_concurrency_slots("gpu", 5)
    dead = {**ME, PREFIX + "started": "1"}
    killed, died, alive, saving, elsewhere = (
        started(instance, tags) for tags in (dead, dead, ME, ME, {**dead, PREFIX + "host": "other"})
    )
    for run_id in (killed, died, alive, saving, elsewhere):
        assert pools.claim_concurrency_slot("gpu", run_id, "harvest_shard").is_claimed
    for run_id in (killed, saving, elsewhere):
        instance.report_run_failed(instance.get_run_by_id(run_id))
    assert end_dead_runs(instance) == [died]
    assert pools.get_concurrency_info("gpu").active_run_ids == {alive, saving, elsewhere}


def test_a_run_whose_process_dies_is_ended_soon(instance: dg.DagsterInstance):
    """Also where the code server died with it."""
    pools = instance.event_log_storage
    pools.set_concurrency_slots("gpu", 1)
    before = started(instance, {**ME, PREFIX + "started": "1"})
    with dead_runs_ended(instance, every=0.05):
        assert instance.get_run_by_id(before).status == dg.DagsterRunStatus.FAILURE
        alive = started(instance, ME)
        died = started(instance, {**ME, PREFIX + "started": "2"})
        assert pools.claim_concurrency_slot("gpu", died, "harvest_shard").is_claimed
        wait_until(lambda: instance.get_run_by_id(died).is_finished, 20)
        wait_until(lambda: not pools.get_concurrency_run_ids(), 20)
    assert instance.get_run_by_id(died).tags[WILL_RETRY_TAG] == "true"
    assert instance.get_run_by_id(alive).status == dg.DagsterRunStatus.STARTED


def test_only_what_was_found_dead_before_is_ended(instance: dg.DagsterInstance):
    """Dagster notices most deaths within seconds, and then tries again."""
    before, since = (started(instance, {**ME, PREFIX + "started": n}) for n in "12")
    assert end_dead_runs(instance, []) == []
    assert end_dead_runs(instance, [before]) == [before]
    assert end_dead_runs(instance, [before, since]) == [since]


def test_a_database_that_is_away_for_a_while_does_not_end_the_watch(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    get_runs, failures = instance.get_runs, iter(range(3))

    def sometimes(*given: object) -> Sequence[dg.DagsterRun]:
        if next(failures, None) is not None:
            raise OSError("no connection")
        return get_runs(*given)

    with dead_runs_ended(instance, every=0.05):
        monkeypatch.setattr(instance, "get_runs", sometimes)
        died = started(instance, {**ME, PREFIX + "started": "1"})
        wait_until(lambda: instance.get_run_by_id(died).is_finished, 20)
    assert "no connection" in caplog.text


def test_a_run_records_its_process_however_it_was_started(instance: dg.DagsterInstance):
    """Also over the tags that a retried run has from one that died."""
    job = dg.Definitions([made_here], executor=dg.in_process_executor)
    result = job.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, tags={**ME, PREFIX + "pid": "1"}, raise_on_error=False
    )
    assert result.success
    assert instance.get_run_by_id(result.run_id).tags.items() >= ME.items()
    assert ME[PREFIX + "started"] == process_started(os.getpid()) != ""


def test_a_job_of_a_cluster_is_left_to_its_sensor(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(requeue, "_is_cancelled", lambda: False)
    run = instance.get_run_by_id(started(instance, {}))
    record_owner(instance, run)
    assert not instance.get_run_by_id(run.run_id).tags.keys() & ME.keys()
