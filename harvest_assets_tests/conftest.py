"""What all tests share: no test reaches the network or the caches of the user who runs it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from harvest_assets_tests import schedule
from harvest_assets_tests.harvester.gpu import DEVICE  # noqa: F401 - decides how Triton is imported

# The same examples each time; `make fuzz` looks further.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# Read when `datasets` and `huggingface_hub` are imported, which is before any fixture runs.
_caches = tempfile.TemporaryDirectory(prefix="harvest-tests-")
os.environ.update(HF_HOME=_caches.name, HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
os.environ.pop("HF_DATASETS_CACHE", None)
os.environ["HARVEST_MAX_RETRIES"] = "0"  # nobody waits for a second attempt


@pytest.fixture(scope="session")
def reference_runs() -> Path:
    """The folder of real runs, which stays outside the project."""
    folder = os.environ.get("HARVEST_REFERENCE_RUNS")
    if not folder:
        pytest.skip("HARVEST_REFERENCE_RUNS does not name the folder of the reference runs")
    return Path(folder)


@pytest.fixture
def out_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `SPD_OUT_DIR` of this test."""
    folder = tmp_path / "spd_out"
    monkeypatch.setenv("SPD_OUT_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def finished_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `SPD_OUT_DIR` with the finished harvest of the tiny run, to be read only."""
    import dagster as dg

    from harvest_assets_tests.tiny_harvest import FINISHED, TinyHarvest
    from harvest_assets_tests.tiny_run import write_world

    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(place / "out"))
        TinyHarvest.of(instance, write_world(place / "world"), FINISHED).harvest()
    return place / "out"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m slow` or `-m rehearsal`, files that never name the marker are not imported."""
    marker = config.option.markexpr
    if marker in ("slow", "rehearsal") and collection_path.suffix == ".py":
        return marker not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first."""
    schedule.sort(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.Scheduler:
    """With several processes, what shares a fixture runs in one of them."""
    return schedule.Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Where `HARVEST_SKIP_IS_FAILURE` is set, a slow test that is skipped has failed."""
    report = yield
    if report.skipped and "slow" in item.keywords and os.environ.get("HARVEST_SKIP_IS_FAILURE"):
        report.outcome = "failed"
    return report
