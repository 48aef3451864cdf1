"""The events of a soak; the soak itself is run by hand: `make rehearsal-soak`."""

from __future__ import annotations

from collections import Counter

import pytest

from harvest_assets_tests.orchestration.soak.events import RESTARTS, Fault, Kind, draw_schedule
from harvest_assets_tests.orchestration.soak.memory import Sample, slopes

HOUR = 3600.0


@pytest.mark.parametrize("n_runs", [6, 200])
def test_everything_happens_in_time_and_in_order(n_runs: int):
    schedule = draw_schedule(1, n_runs, HOUR)
    assert schedule == draw_schedule(1, n_runs, HOUR) != draw_schedule(2, n_runs, HOUR)
    assert schedule.events == sorted(schedule.events, key=lambda event: event.at)
    assert schedule.events[-1].at < HOUR
    assert len(schedule.runs) == n_runs
    assert {run.kind for run in schedule.runs} >= set(Kind) - {Kind.PLAIN}
    for run in schedule.runs:
        happened = [e.action for e in schedule.events if e.subject == run.number]
        changes = {
            Kind.PLAIN: [],
            Kind.BROKEN: [],
            Kind.RETURNS: ["disappear", "change"],
        }.get(run.kind, ["change"])
        assert happened == ["appear", *changes]


def test_each_fault_is_met_and_mended():
    schedule = draw_schedule(1, 200, HOUR)
    faults = [e for e in schedule.events if e.action in ("fault", "healthy")]
    begun, mended = faults[::2], faults[1::2]
    assert {event.action for event in mended} == {"healthy"}
    assert min(Counter(event.subject for event in begun).values()) >= 2
    assert {event.subject for event in begun} == set(Fault)
    restarts = [event for event in schedule.events if event.action in RESTARTS]
    assert [event.action for event in restarts] == list(RESTARTS)
    assert max(event.at for event in restarts) < HOUR / 2


def test_slopes_are_of_the_last_process():
    def sample(minute: int, pid: int, uss: float) -> Sample:
        return Sample(60.0 * minute, "daemon", pid, uss, uss, 1, 1)

    first = [sample(minute, 1, 500) for minute in range(30)]
    last = [sample(minute, 2, 100 + minute) for minute in range(30, 60)]
    assert slopes(first + last, HOUR / 2) == {"daemon": pytest.approx(60)}
