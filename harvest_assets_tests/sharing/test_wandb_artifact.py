"""Harvests pushed to W&B and pulled from it, by commands that use W&B's own client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets.store.garbage import removable
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.loopback_wandb import API_KEY
from harvest_assets_tests.sharing.machine import LAST, NAME, Machine
from harvest_assets_tests.writable_wandb import WritableWandb

PLACE = "wandb://team/project/counts"


@pytest.fixture
def wandb() -> Iterator[WritableWandb]:
    with WritableWandb() as wandb:
        yield wandb


@pytest.fixture
def owner(wandb: WritableWandb, tmp_path: Path) -> Machine:
    """Has a harvest."""
    SmallHarvest(tmp_path / "owner/harvest" / NAME).run()
    return machine(wandb, tmp_path / "owner")


@pytest.fixture
def reader(wandb: WritableWandb, tmp_path: Path) -> Machine:
    """Has nothing."""
    return machine(wandb, tmp_path / "reader")


def machine(wandb: WritableWandb, home: Path) -> Machine:
    folders = {f"WANDB_{it}_DIR": str(home / it) for it in ("CACHE", "DATA", "CONFIG")}
    return Machine(home, {**wandb.environment, **folders})


def test_what_is_pulled_is_what_was_pushed(wandb: WritableWandb, owner: Machine, reader: Machine):
    owner.done("push", NAME, PLACE)
    reader.done("pull", PLACE)
    pulled = reader.files(NAME)
    assert pulled.items() <= owner.files(NAME).items()
    assert pulled == {k: v for k, v in wandb.files().items() if k != "contents.json"}
    assert len(pulled) == 5 + 4 + 2  # results, tables, manifest and plan


@pytest.mark.slow
def test_another_harvest_is_another_version(wandb: WritableWandb, owner: Machine, reader: Machine):
    owner.done("push", NAME, PLACE)
    assert "already" in owner.done("push", NAME, PLACE)
    assert len(wandb.versions) == 1
    SmallHarvest(owner.out_dir / "harvest/second", seed=1).run()
    owner.done("push", "second", PLACE)
    assert "v0" in owner.refused("push", "second", f"{PLACE}:v0")
    assert len(wandb.versions) == 2
    reader.done("pull", f"{PLACE}:v0", "--out-name", "here")
    kept = reader.files("here")
    assert kept.items() <= owner.files(NAME).items()
    assert "here" in reader.refused("pull", PLACE, "--out-name", "here")
    assert reader.files("here") == kept
    assert "v7" in reader.refused("pull", f"{PLACE}:v7")


@pytest.mark.slow
def test_a_pull_that_was_killed_continues(
    wandb: WritableWandb, owner: Machine, reader: Machine, monkeypatch: pytest.MonkeyPatch
):
    owner.done("push", NAME, PLACE)
    begun, release = threading.Event(), threading.Event()

    def others_are_there() -> bool:
        expected = {k: v for k, v in wandb.files().items() if k != LAST}
        (folder,) = (reader.out_dir / "harvest").iterdir()
        return all(
            (folder / k).is_file() and (folder / k).read_bytes() == v for k, v in expected.items()
        )

    def wait(path: str) -> None:
        if path == LAST:  # the others are fetched at the same time
            while not others_are_there() and not release.wait(0.05):
                pass
            begun.set()
            release.wait(60)

    wandb.on_file = wait
    reader.killed(begun, "pull", PLACE)
    release.set()
    assert reader.files(NAME) == {}
    monkeypatch.setenv("SPD_OUT_DIR", str(reader.out_dir))
    (left,) = removable()
    assert left.path.parent == reader.out_dir / "harvest"

    wandb.fetched.clear()
    reader.done("pull", PLACE)
    assert wandb.fetched[-2:] == ["contents.json", LAST]
    # The server may only now answer what the killed one had requested.
    assert set(wandb.fetched) == {"contents.json", LAST}
    assert reader.files(NAME).items() <= owner.files(NAME).items()
    assert removable() == []


@pytest.mark.slow
def test_an_interrupted_push_shows_nothing_and_continues(
    wandb: WritableWandb, owner: Machine, reader: Machine
):
    wandb.on_file = lambda path: 400 if path == LAST else None
    assert PLACE in owner.refused("push", NAME, PLACE)
    assert PLACE in reader.refused("pull", PLACE)
    first = list(wandb.sent)
    wandb.on_file = lambda _path: None
    owner.done("push", NAME, PLACE)
    assert LAST in wandb.sent
    assert len(set(wandb.sent)) == len(wandb.sent) > len(first)
    reader.done("pull", PLACE)


@pytest.mark.slow
def test_what_push_did_not_write_does_no_harm(
    wandb: WritableWandb, owner: Machine, reader: Machine
):
    owner.done("push", NAME, PLACE)
    version = wandb.versions[0]
    good, manifest = version.manifest, json.loads(version.manifest)
    entries, objects = manifest["contents"], dict(wandb.objects)

    def listing(**changes: object) -> bytes:
        kept = {k: v for k, v in {**entries, **changes}.items() if v is not None}
        return json.dumps({**manifest, "contents": kept}).encode()

    evil = {"digest": entries[LAST]["digest"], "size": entries[LAST]["size"]}
    bad = {
        "a file is missing": listing(**{LAST: None}),
        "outside": listing(**{"../../evil": evil}),
        "elsewhere": listing(**{LAST: {**evil, "ref": "file:///etc/passwd"}}),
    }
    for kind, changed in bad.items():
        version.manifest = changed
        assert PLACE in reader.refused("pull", PLACE), kind
        assert list((reader.out_dir / "harvest").glob("**/*")) == [], kind
    version.manifest = good
    digest = entries[LAST]["digest"]
    wandb.objects[digest] = objects[digest][::-1]
    assert PLACE in reader.refused("pull", PLACE)
    assert reader.files(NAME) == {}


@pytest.mark.slow
def test_keys_are_never_printed(wandb: WritableWandb, owner: Machine):
    wandb.status, wandb.echoes = 401, True
    shown = owner.refused("push", NAME, PLACE, "--debug")
    assert API_KEY not in shown
    assert base64.b64encode(f"api:{API_KEY}".encode()).decode() not in shown
    assert wandb.versions == []
