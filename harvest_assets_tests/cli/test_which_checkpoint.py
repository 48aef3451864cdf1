"""Which checkpoint of a run the command takes: the newest whole one, or that of a step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets_tests.tiny_run import write_world


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in progress: two checkpoints are whole, the third is being written."""
    run = write_world(tmp_path_factory.mktemp("world"), n_texts=60)
    later = torch.load(run / "model_100.pth", weights_only=True)
    torch.save(later, run / "model_1100.pth")
    whole = (run / "model_1100.pth").read_bytes()
    (run / "model_2100.pth").write_bytes(whole[: len(whole) // 2])
    return run


def _dry_run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--batch_size", "4", "--dry-run"])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("out_dir")
def test_the_newest_whole_checkpoint_or_that_of_a_step(run: Path):
    assert ", step 1100" in _dry_run(str(run))
    assert ", step 100\n" in _dry_run(str(run), "--step", "100")
    assert ", step 100\n" in _dry_run(str(run / "model_100.pth"))
    cut = CliRunner().invoke(cli, [str(run), "--step", "2100", "--dry-run"])
    assert cut.exit_code == 1
    assert "model_2100.pth" in cut.stderr
    assert "cut short" in cut.stderr


@pytest.mark.usefixtures("out_dir")
def test_a_run_lies_anywhere(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "some where" / "my-run_2.final"
    shutil.copytree(run, place)
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    run_lines = {
        next(line for line in _dry_run(path).splitlines() if line.startswith("run "))
        for path in (str(place), "./link", "link", "some where/../some where/my-run_2.final/")
    }
    assert len(run_lines) == 1
    assert "local/my-run_2.final/x-" in run_lines.pop()


@pytest.mark.usefixtures("out_dir")
def test_a_sigmoid_that_is_never_0_is_warned_of(run: Path, tmp_path: Path):
    place = tmp_path / "normal"
    shutil.copytree(run, place)
    config = yaml.safe_load((place / "final_config.yaml").read_text())
    (place / "final_config.yaml").write_text(yaml.safe_dump({**config, "sigmoid_type": "normal"}))
    assert "almost every component fires" in _dry_run(str(place))
    assert "fires" not in _dry_run(str(place), "--ci_threshold", "0.5")
