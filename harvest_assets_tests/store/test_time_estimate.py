"""The seconds of a harvest, stage by stage."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store import time_estimate
from harvest_assets.store.resource_estimate import ResourceEstimate
from harvest_assets.store.time_estimate import MeasuredSeconds, estimate_time, merge_seconds

NEEDS = ResourceEstimate(weights=0, working=0, counts=0, examples=0, state=10**9, results=10**9)
MEASURED = MeasuredSeconds(preparing=53.0, model=7.0, harvesting=100.0)


@pytest.fixture
def slowness(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How slow the machine is: its only element."""
    holder = [1.0]
    monkeypatch.setattr(time_estimate, "slowness_of_machine", lambda: holder[0])
    return holder


def test_each_stage_counts_what_belongs_to_it(slowness: list[float]):
    nothing = estimate_time(MeasuredSeconds(0, 0, 0), NEEDS, 1)
    estimate = estimate_time(MEASURED, NEEDS, 1)
    assert estimate.start == nothing.start > 0
    assert estimate.prepare - nothing.prepare == pytest.approx(53)
    assert estimate.harvest - nothing.harvest == pytest.approx(107)
    assert estimate.merge == nothing.merge == merge_seconds(NEEDS, 1)
    assert estimate.total - nothing.total == pytest.approx(160)
    low, high = replace(estimate, crowding=1.0).range
    assert low < estimate.total < high
    around = estimate.total - estimate.harvest
    crowded = replace(estimate, crowding=3.0).range
    assert crowded == (low, pytest.approx(high * (1 + 2 * around / estimate.total)))
    # What was not measured takes longer on a slow machine, what was measured already did.
    slowness[0] = 3.0
    slow = estimate_time(MEASURED, NEEDS, 1)
    assert slow.start == pytest.approx(3 * estimate.start)
    assert slow.merge == pytest.approx(3 * estimate.merge)
    assert slow.harvest - estimate.harvest == pytest.approx(2 * nothing.harvest)


@pytest.mark.usefixtures("slowness")
def test_merging_takes_longer_for_more_results_and_more_shards():
    small = merge_seconds(replace(NEEDS, results=0), 1)
    assert small < merge_seconds(NEEDS, 1) < merge_seconds(NEEDS, 2) < merge_seconds(NEEDS, 16)
    one_shard = replace(NEEDS, state=0)  # its state becomes the merged one
    assert merge_seconds(one_shard, 1) == merge_seconds(NEEDS, 1)


def test_the_speed_of_the_machine_is_measured_within_a_second():
    time_estimate.slowness_of_machine.cache_clear()
    began = time.process_time()
    assert time_estimate.slowness_of_machine() > 0
    assert time.process_time() - began < 1


def test_a_harvest_that_is_not_prepared_has_no_time_for_merging(tmp_path: Path):
    assert time_estimate.merge_seconds_of(HarvestLayout(tmp_path)) == 0
