"""What is shown while a harvest is made."""

from __future__ import annotations

import pytest

from harvest_assets.cli.progress import HarvestDisplay
from harvest_assets.runners.protocol import HarvestProgress
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration
from harvest_assets.wandb_client.run_name import parse_run


@pytest.mark.usefixtures("out_dir")
def test_the_time_left_includes_merging(capsys: pytest.CaptureFixture[str]):
    display = HarvestDisplay([Registration(parse_run("local/spd/s-aaaa1111"), "s-aaaa1111")])
    with display:
        display.show(
            HarvestProgress(
                Stage.HARVEST,
                tokens_done=1_000,
                tokens=4_000,
                tokens_per_second=100.0,
                merge_seconds=35.0,
            )
        )
        display.show(HarvestProgress(Stage.MERGE, merge_seconds=35.0))
    harvesting, merging = capsys.readouterr().err.splitlines()
    assert "1,000 of 4,000 tokens, 100 tokens/s, 0:01:05 left" in harvesting  # 30 s and 35 s
    assert "0:00:35" in merging
