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


def wait_for(shown: list[str], n: int) -> None:
    until = time.monotonic() + 30
    while len(shown) < n and time.monotonic() < until:
        time.sleep(0.02)
