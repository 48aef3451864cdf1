"""How far a dataset is tokenized, or a share harvested, is shown while it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvest_assets.cli.progress import HarvestDisplay
from harvest_assets.files.records import Record
from harvest_assets.orchestration import progress
from harvest_assets.runners.protocol import HarvestProgress
from harvest_assets.stages import Stage
from harvest_assets.store.registry import registration_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest


def test_the_file_is_there_while_it_is_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_FILES", -1.0)
    path = tmp_path / "tokenizing.json"
    with progress.tokenizing(path, lambda _: None) as report:
        assert progress.read_tokenizing(path) is None
        for done, total in ((1000, 2251), (2000, None)):
            report(done, total)
            assert progress.read_tokenizing(path) == progress.Tokenizing(done, total)
        path.write_text("{")
        assert progress.read_tokenizing(path) is None
    assert not path.exists()


def test_preparing_reports_every_row_of_the_dataset(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_FILES", -1.0)
    seen: list[progress.Tokenizing] = []
    write = Record.write

    def spy(record: Record, path: Path, value: object) -> None:
        write(record, path, value)
        if isinstance(value, progress.Tokenizing):
            assert path == tiny.layout.tokenizing_progress
            seen.append(value)

    monkeypatch.setattr(Record, "write", spy)
    assert tiny.stage("prepare", **SETTINGS).success
    assert seen[-1].rows_done == seen[-1].rows > 0
    assert [it.rows_done for it in seen] == sorted({it.rows_done for it in seen})
    assert not tiny.layout.tokenizing_progress.exists()


def test_the_command_shows_it(tiny: TinyHarvest, capfd: pytest.CaptureFixture[str]):
    with HarvestDisplay([registration_of(tiny.key)]) as display:
        display.show(HarvestProgress(Stage.PREPARE))
        display._line = ""
        display.show(HarvestProgress(Stage.PREPARE, texts_done=1000, texts=2251))
    assert "1,000 of 2,251 rows of the dataset" in capfd.readouterr().err


def test_a_resumed_share_begins_with_what_was_done_before(tmp_path: Path):
    """Until its first group of rows is done, it would look like one that begins again."""
    file = tmp_path / "progress.json"
    write = progress.ProgressWriter(file, 80, 16, lambda _: None, rows_before=40)
    begun = progress.read_progress(file)
    assert begun is not None
    assert (begun.rows_done, begun.tokens_per_second) == (40, 0)
    write(80)
    ended = progress.read_progress(file)
    assert ended is not None
    assert ended.rows_done == 80
    assert ended.tokens_per_second == 40 * 16 / ended.seconds
