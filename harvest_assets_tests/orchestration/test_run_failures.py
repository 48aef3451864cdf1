"""Why a Dagster run failed: the innermost cause, wherever in Dagster it was raised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.failures import bad_input_is_final
from harvest_assets.orchestration.run_failures import failure_of, traceback_in


def raises(error: Exception, cause: Exception | None = None):
    def fail(*_arguments: object):
        raise error from cause

    return fail


def executed(asset, resources=None) -> dg.ExecuteInProcessResult:
    job = dg.Definitions(
        assets=[asset], jobs=[dg.define_asset_job("stage")], resources=resources
    ).resolve_job_def("stage")
    return job.execute_in_process(raise_on_error=False)


def in_a_step() -> dg.ExecuteInProcessResult:
    @dg.asset
    def made():
        raises(RuntimeError("outer"), OSError("no space left"))()

    return executed(made)


def with_bad_input() -> dg.ExecuteInProcessResult:
    @dg.asset
    def made():
        with bad_input_is_final():
            raises(HarvestError("no space left"), OSError("inner"))()

    return executed(made)


def in_a_resource() -> dg.ExecuteInProcessResult:
    @dg.asset(required_resource_keys={"disk"})
    def made(): ...

    return executed(made, {"disk": dg.ResourceDefinition(raises(OSError("no space left")))})


def in_an_io_manager() -> dg.ExecuteInProcessResult:
    class Full(dg.IOManager):
        handle_output = load_input = raises(OSError("no space left"))

    @dg.asset
    def made():
        return 1

    return executed(made, {"io_manager": Full()})


def in_dagster_while_a_step_works() -> dg.ExecuteInProcessResult:
    """As where Dagster cannot write one of its own files."""
    with pytest.MonkeyPatch.context() as patched:
        fail = raises(RuntimeError("outer"), OSError("no space left"))
        patched.setattr("dagster._core.execution.api.log_dagster_event", fail)
        return in_a_step()


@pytest.mark.parametrize(
    "run",
    [in_a_step, with_bad_input, in_a_resource, in_an_io_manager, in_dagster_while_a_step_works],
)
def test_a_failed_run_names_its_innermost_cause(run):
    result = run()
    assert "no space left" in failure_of(result)
    assert "outer" not in failure_of(result)
    trace = traceback_in(result.all_events)
    assert "no space left" in trace
    assert ", line " in trace


def test_what_fails_before_the_run_begins_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    worker = [sys.executable, "-m", "harvest_assets.runners.worker", "prepare", "a/b/c"]
    done = subprocess.run(
        worker, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert "a/b/c" in answer["error"]
    assert "Traceback" in answer["traceback"]
    assert "Traceback" in done.stderr
