"""The unattended parts on an instance of many runs; `scale.py` measures them on a thousand."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.scale import N_OPEN, measure

N_RUNS = 120
MOST_AT_ONCE = 4


@pytest.mark.slow
@pytest.mark.timeout(400)
@mock.patch.dict(os.environ)
def test_of_many_runs_those_are_found_that_are_not_harvested(tmp_path: Path):
    with LoopbackWandb() as server:
        found = measure(N_RUNS, tmp_path, server)
    assert found.asked_for == [MOST_AT_ONCE, MOST_AT_ONCE]
    last = {f"ent/proj/s-{n:08d}" for n in range(N_RUNS - N_OPEN, N_RUNS)}
    assert found.open == [last, last]
    assert max(found.questions) < 10
