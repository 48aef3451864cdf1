"""Odd runs, times and fields that a W&B server sends never stop the watch over the other runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import watched_path
from harvest_assets.orchestration.wandb.inspection import HARVESTABLE, Finding
from harvest_assets.orchestration.wandb.settings import WatchSettings
from harvest_assets.orchestration.wandb.watch import ProjectCursor, ProjectWatch
from harvest_assets.wandb_client.listed_run import ListedRun, listed_run, parse_time
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.orchestration.wandb.ticks import (
    PROJECT,
    Ticks,
    add,
    just_ended,
    key,
)

MOMENT = datetime(2026, 11, 27, 4, 44, 10, tzinfo=UTC)
UNDERSTOOD: list[dict[str, Any]] = [
    {"heartbeatAt": None},
    {"heartbeatAt": "0001-01-01T00:00:00Z"},
    {"heartbeatAt": "9999-12-31T23:59:59Z"},
    {"displayName": None},
    {"displayName": 7},
    {"displayName": "x" * 100_000},
    {"tags": None},
    {"config": None},
]
SKIPPED: list[dict[str, Any]] = [
    {"heartbeatAt": 1764218650},
    {"heartbeatAt": "yesterday"},
    {"createdAt": None},
    {"createdAt": ""},
    {"createdAt": {"seconds": 3}},
    {"createdAt": "2026-13-01T00:00:00"},
    {"createdAt": "0001-01-01T00:00:00+05:00"},
    {"tags": "keep"},
    {"tags": [None]},
    {"state": None},
]
WITHOUT_ID: list[dict[str, Any] | None] = [
    None,
    {"name": None},
    {"name": 5},
    {"name": ""},
    {"name": "x" * 10_000},
]
# The client itself fails at these, as soon as it opens the run.
FATAL: list[dict[str, Any]] = [{"config": "["}, {"summaryMetrics": 5}, {"projectId": "x"}]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-27T04:44:10", MOMENT),
        ("2026-11-27T04:44:10Z", MOMENT),
        ("2026-11-27t04:44:10z", MOMENT),
        ("2026-11-27 04:44:10", MOMENT),
        ("2026-11-27T04:44:10.123", MOMENT.replace(microsecond=123_000)),
        ("2026-11-27T04:44:10.123456Z", MOMENT.replace(microsecond=123_456)),
        ("2026-11-27T04:44:10.123456789Z", MOMENT.replace(microsecond=123_456)),
        ("2026-11-27T06:44:10+02:00", MOMENT),
        ("2026-11-26T23:14:10.000-0530", MOMENT),
        (" 20261127T044410Z\n", MOMENT),
    ],
)
def test_every_spelling_of_a_time_is_understood(text: str, moment: datetime):
    assert parse_time(text) == moment
    run = listed_run({"name": "s-00000000", "state": "finished", "createdAt": text})
    assert not run.problem
    assert run.created == run.heartbeat == moment


def test_times_without_a_zone(tick: Ticks, server: LoopbackWandb, later):
    server.spell = lambda text: text.partition("+")[0]
    add(server, 0)
    tick()
    add(server, 1, days_ago=0, heartbeat_at=just_ended())
    tick()
    later(days=2)
    add(server, 2, days_ago=0.01, heartbeat_at=just_ended(days=2))
    tick()
    assert tick.registered == {key(n) for n in range(3)}


def test_odd_runs_are_skipped_with_the_reason(tick: Ticks, server: LoopbackWandb, later):
    odd = [*UNDERSTOOD, *SKIPPED, *WITHOUT_ID, *FATAL]
    for n, fields in enumerate(odd):
        add(server, n, days_ago=0.5 + n / 100, odd=fields)
    add(server, 100)
    message = tick()
    understood = {key(n) for n in range(len(UNDERSTOOD))}
    assert tick.registered == {*understood, key(100)}
    for n, fields in enumerate(odd[len(UNDERSTOOD) :], start=len(UNDERSTOOD)):
        if fields is not None and "name" not in fields:
            assert key(n) in message
            assert fields in FATAL or next(iter(fields)) in message
    assert message.count(f"{PROJECT}/?: name is") == len(WITHOUT_ID)
    for n in (101, 102):
        later(hours=30 * (n - 100))
        add(server, n, days_ago=0, heartbeat_at=just_ended())
        message = tick()
        assert not any(key(m) in message for m in range(len(UNDERSTOOD) + len(SKIPPED)))
    # W&B sends the malformed fields correctly from here on.
    late = len(UNDERSTOOD) + 2
    server.runs[key(late)].odd = {}
    server.runs[key(late)].heartbeat_at = just_ended(hours=90)
    tick()
    assert tick.registered == {*understood, key(late), *(key(n) for n in (100, 101, 102))}


class FakeWandb:
    """Answers with these nodes, in an order that has nothing to do with the odd ones."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def list_runs(
        self, _project: str, _filters: Mapping[str, Any], _order: str, _per_page: int
    ) -> tuple[int, Iterator[ListedRun]]:
        return len(self.nodes), map(listed_run, self.nodes)

    def inspect_run(self, key: str) -> Finding:
        if key.endswith("f"):
            raise HarvestError(f"{key} is odd")
        return Finding(HARVESTABLE, step=1)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00", "2026-11-27", "1e9"])
    | st.lists(st.none() | st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
)
FIELDS = ("name", "displayName", "state", "tags", "createdAt", "heartbeatAt")
NODES = st.lists(VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES), max_size=8)


def node(n: int, moment: datetime) -> dict[str, Any]:
    return {
        "name": f"s-{n:08d}",
        "state": "finished",
        "createdAt": moment.isoformat(),
        "heartbeatAt": moment.replace(tzinfo=None).isoformat(),
    }


@settings(max_examples=60)
@given(st.tuples(NODES, NODES, NODES, NODES), st.booleans())
def test_whatever_else_is_listed_sound_runs_are_found(
    tmp_path_factory: pytest.TempPathFactory, odd: tuple[list[Any], ...], first: bool
):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPD_OUT_DIR", str(tmp_path_factory.mktemp("out")))
        client, cursor, known = FakeWandb(), ProjectCursor(), set()
        for n, nodes in enumerate(odd):
            now = MOMENT + timedelta(hours=10 * n)
            client.nodes = [*nodes, node(n, now)] if first else [node(n, now), *nodes]
            wanted = WatchSettings(projects=(PROJECT,))
            result = ProjectWatch(PROJECT, wanted, cursor, set(known), client, now).poll()
            assert not result.failure
            known.update(result.new)
            cursor = ProjectCursor(**json.loads(json.dumps(cursor.__dict__)))
            assert key(n) in known


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "[" * 100_000,
        "\udcff",
        *(
            json.dumps({"s-00000000": entry})
            for entry in (
                None,
                [],
                {"heartbeat": 5, "found": "x"},
                {"heartbeat": "yesterday", "found": "x"},
                {"heartbeat": "", "found": None},
                {"heartbeat": "", "found": "x", "tries": "many"},
                {"heartbeat": "", "found": "x", "tries": -1},
                {"heartbeat": "", "found": "x", "again_at": 5},
                {"heartbeat": "", "found": "x", "again_at": "soon"},
                {"heartbeat": "", "found": "x", "more": 1},
            )
        ),
    ],
)
@pytest.mark.usefixtures("out_dir")
def test_a_damaged_file_of_remembered_runs_is_replaced(text: str):
    path = watched_path("ent", "proj")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    client = FakeWandb()
    client.nodes = [node(n, MOMENT) for n in range(2)]
    settings = WatchSettings(projects=(PROJECT,))
    result = ProjectWatch(PROJECT, settings, ProjectCursor(), set(), client, MOMENT).poll()
    assert set(result.new) == {key(0), key(1)}
    assert json.loads(path.read_text())["runs"].keys() == {"s-00000000", "s-00000001"}


@pytest.mark.parametrize(
    "cursor", ["{", "[]", '{"ent/proj": {"until": 5}}', '{"ent/proj": {"first": "x"}}']
)
def test_a_damaged_cursor_is_named(tick: Ticks, cursor: str):
    tick.cursor = cursor
    with pytest.raises(HarvestError, match="cursor"):
        tick()


def test_one_project_that_cannot_be_listed(
    tick: Ticks, server: LoopbackWandb, monkeypatch: pytest.MonkeyPatch
):
    add(server, 0)
    server.on_operation = lambda _operation: None
    monkeypatch.setenv("HARVEST_WANDB_PROJECTS", f"ent/gone,{PROJECT}")
    answer = server._project_with_runs
    monkeypatch.setattr(
        server,
        "_project_with_runs",
        lambda asked: None if asked["project"] == "gone" else answer(asked),
    )
    assert "ent/gone" in tick()
    assert tick.registered == {key(0)}
