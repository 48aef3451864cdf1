"""A secret in an error or a log line reaches neither Dagster's storage nor what a worker prints."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.orchestration.failures import one_owner, presentable_errors, refuses_bad_input
from harvest_assets.runners import worker

SECRET = "hf_plantedPlantedPlanted"  # noqa: S105


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def _files_with_the_secret(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def _fail(kind: type[Exception]) -> None:
    try:
        raise ConnectionError(f"401 for {SECRET}")
    except ConnectionError as error:
        raise kind(f"The key {SECRET} was refused.") from error


KINDS = pytest.mark.parametrize("kind", [HarvestError, TransientError, ValueError])


def _failure(asset: dg.AssetsDefinition, instance: dg.DagsterInstance) -> str:
    result = dg.materialize([asset], instance=instance, raise_on_error=False, partition_key="a")
    assert not result.success
    (failed,) = (event for event in result.all_events if event.is_step_failure)
    return str(failed.step_failure_data.error.to_string())


PARTITIONS = dg.StaticPartitionsDefinition(["a"])


@KINDS
def test_an_asset_that_fails(
    kind: type[Exception], instance: dg.DagsterInstance, tmp_path: Path, capfd
):
    @dg.asset(partitions_def=PARTITIONS)
    @refuses_bad_input
    def fails(context: dg.AssetExecutionContext) -> None:
        context.log.info("The key is %s", SECRET)
        _fail(kind)

    text = _failure(fails, instance)
    assert "The key *** was refused." in text
    assert "401 for ***" in text
    assert "_fail" in text
    assert _files_with_the_secret(tmp_path) == []
    out, err = capfd.readouterr()
    assert "The key is ***" in out + err
    assert SECRET not in out + err


@KINDS
def test_an_asset_with_one_owner_that_fails(
    kind: type[Exception], instance: dg.DagsterInstance, tmp_path: Path, capfd
):
    @dg.asset(partitions_def=PARTITIONS, output_required=False)
    @one_owner(lambda _: (tmp_path / "harvest" / "leases" / "it.json", "It"))
    def fails(context: dg.AssetExecutionContext) -> None:
        context.log.info("The key is %s", SECRET)
        _fail(kind)

    assert "The key *** was refused." in _failure(fails, instance)
    assert _files_with_the_secret(tmp_path) == []
    out, err = capfd.readouterr()
    assert SECRET not in out + err


def test_bad_input_stays_final(instance: dg.DagsterInstance):
    tries = []

    def asset(kind: type[Exception]) -> dg.AssetsDefinition:
        @dg.asset(partitions_def=PARTITIONS, retry_policy=dg.RetryPolicy(max_retries=2))
        @refuses_bad_input
        def fails() -> None:
            tries.append(kind)
            _fail(kind)

        return fails

    for kind in (HarvestError, TransientError, ValueError):
        _failure(asset(kind), instance)
    assert [tries.count(kind) for kind in (HarvestError, TransientError, ValueError)] == [1, 3, 3]


def test_other_functions_that_dagster_calls():
    @presentable_errors()
    def fails() -> None:
        _fail(ValueError)

    with pytest.raises(Exception, match=r"The key \*\*\* was refused") as raised:
        fails()
    assert SECRET not in str(raised.value.__cause__)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("raises", [True, False])
def test_the_line_of_a_worker(
    raises: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def execute(*_: object) -> worker.Executed:
        if raises:
            _fail(HarvestError)
        return worker.Executed(f"The key {SECRET} was refused.", f"Traceback: {SECRET}")

    _run_worker(monkeypatch, execute)
    out, err = capfd.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert answer["error"] == "The key *** was refused."
    assert "Traceback" in answer["traceback"]
    assert SECRET not in out + err


def _run_worker(monkeypatch: pytest.MonkeyPatch, execute: Callable[..., object]) -> None:
    monkeypatch.setattr(worker, "execute", execute)
    for module, name in (
        (worker, "redact_uncaught_errors"),
        (worker, "hangup_terminates"),
        (worker.signal, "signal"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(worker.stat, "S_ISFIFO", lambda _: False)
    monkeypatch.setattr(sys, "argv", ["worker", "prepare", "a"])
    with pytest.raises(SystemExit):
        worker.main()
