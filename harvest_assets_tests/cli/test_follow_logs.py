"""The logs of stages on stderr, while they are written."""

from __future__ import annotations

import time
from pathlib import Path

from harvest_assets.cli.follow_logs import following_logs
from harvest_assets.files.layout import HarvestLayout


def test_lines_are_shown_once_and_as_they_are_written(tmp_path: Path):
    layout = HarvestLayout(tmp_path)
    folder = layout.log("merge").parent
    (folder / "jobs").mkdir(parents=True)
    layout.log("prepare").write_text("of an earlier command\n")
    shown: list[str] = []
    with following_logs([layout], shown.append):
        with layout.log("prepare").open("a") as log:
            log.write("one\ntwo\nnot who")
        (folder / "jobs/7_0_log.err").write_text("a job's\n")
        wait_for(shown, 3)
        assert sorted(shown) == ["a job's", "one", "two"]
        with layout.log("prepare").open("a") as log:
            log.write("le\n")
        wait_for(shown, 4)
        layout.log("prepare").write_text("")  # as a stage that begins again does
        time.sleep(1.5)  # its first line comes later
        layout.log("prepare").write_text("another\n")
    assert shown[3:] == ["not whole", "another"]


def test_a_long_log_of_an_earlier_command_is_not_shown(tmp_path: Path):
    layout = HarvestLayout(tmp_path)
    log = layout.log("prepare")
    log.parent.mkdir(parents=True)
    log.write_text("an old line\n" * 300_000)  # 3.6 MB
    shown: list[str] = []
    with following_logs([layout], shown.append), log.open("a") as out:
        out.write("new\n" * 500_000)
    assert set(shown) == {"new"}
    assert len(shown) == 500_000


def test_a_log_that_begins_again_is_shown_from_its_beginning(tmp_path: Path):
    layout = HarvestLayout(tmp_path)
    removed, emptied = layout.log("prepare"), layout.log("merge")
    removed.parent.mkdir(parents=True)
    for log in (removed, emptied):
        log.write_text("old\n")
    shown: list[str] = []
    with following_logs([layout], shown.append):
        removed.unlink()
        for log in (removed, emptied):
            log.write_text(f"{log.stem}, longer than before\n")
    assert sorted(shown) == ["merge, longer than before", "prepare, longer than before"]


def test_a_line_that_is_too_long_for_one_reading_stops_nothing(tmp_path: Path):
    layout = HarvestLayout(tmp_path)
    log = layout.log("prepare")
    log.parent.mkdir(parents=True)
    shown: list[str] = []
    with following_logs([layout], shown.append):
        log.write_text("x" * 2_500_000 + "\nthe next\n")
    assert "".join(shown[:-1]) == "x" * 2_500_000
    assert shown[-1] == "the next"


def wait_for(shown: list[str], n: int) -> None:
    until = time.monotonic() + 30
    while len(shown) < n and time.monotonic() < until:
        time.sleep(0.02)
