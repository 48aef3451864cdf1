"""The settings of the Dagster instance that is made where nobody gave one."""

import re
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.orchestration import instance as made
from harvest_assets.orchestration.instance import dagster_home, open_instance

OF_0_1 = """\
telemetry:
  enabled: false
concurrency:
  pools:
    granularity: op
    default_limit: 1
run_monitoring:
  enabled: true
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "")  # so that what is set later is undone
    monkeypatch.setattr(made, "slurm_is_here", lambda: False)
    file = tmp_path / ".local/share/harvest_assets/dagster/dagster.yaml"
    file.parent.mkdir(parents=True)
    return file


@pytest.mark.parametrize("before", [None, OF_0_1])
def test_what_dies_is_to_be_tried_again(settings: Path, before: str | None):
    """Also where version 0.1 wrote the file, which left places of killed processes taken."""
    if before is not None:
        settings.write_text(before)
    with open_instance() as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] <= 60
        assert instance.run_retries_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue.max_user_code_failure_retries > 0


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.usefixtures("settings")
def test_dagster_takes_the_settings(monkeypatch: pytest.MonkeyPatch, *, cluster: bool):
    monkeypatch.setattr(made, "slurm_is_here", lambda: cluster)
    with open_instance() as instance:
        assert "free_slots_after_run_end_seconds" in instance.run_monitoring_settings
        assert instance.run_monitoring_start_timeout_seconds > 0  # else Dagster reports errors
        launcher = type(instance.run_launcher).__name__
        assert launcher == ("SlurmRunLauncher" if cluster else "DefaultRunLauncher")


@pytest.mark.parametrize("cluster", [False, True])
def test_what_is_renewed_stays_for_one_machine_or_a_cluster(
    settings: Path, monkeypatch: pytest.MonkeyPatch, *, cluster: bool
):
    """Whatever the machine is on which a command runs: several may share the folder."""
    monkeypatch.setattr(made, "slurm_is_here", lambda: cluster)
    dagster_home()
    written = settings.read_text()
    older = re.sub("  (poll_interval|free_slots_after_run_end)_seconds: 30\n", "", written)
    older = older.replace("start_timeout_seconds: 31536000", "start_timeout_seconds: 0")
    if not cluster:
        older = re.sub("run_coordinator:\n(  .*\n)+", "", older)
    assert older != written
    settings.write_text(older)
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setattr(made, "slurm_is_here", lambda: not cluster)
    dagster_home()
    assert settings.read_text() == written


def test_the_settings_in_the_docs_do_the_same(settings: Path):
    docs = Path(__file__).parents[2] / "docs/unattended.md"
    (block,) = re.findall(r"```yaml\n(.*?)```", docs.read_text(), re.DOTALL)
    settings.write_text(block)
    with open_instance() as instance:
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] <= 60
        queue = instance.get_concurrency_config().run_queue_config
        assert queue.max_user_code_failure_retries > 0


def test_settings_that_somebody_changed_are_kept(settings: Path):
    own = OF_0_1.replace("max_retries: 3", "max_retries: 1")
    settings.write_text(own)
    dagster_home()
    assert settings.read_text() == own
    with dg.DagsterInstance.get() as instance:
        assert instance.run_retries_max_retries == 1
