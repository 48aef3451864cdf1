"""Harvests pushed to a hub and pulled from it, by commands that use the hub's own client."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets.store.garbage import removable
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.sharing.machine import LAST, NAME, Machine
from harvest_assets_tests.writable_hub import WritableHub

PLACE = "hf://datasets/owner/counts"


@pytest.fixture
def hub() -> Iterator[WritableHub]:
    with WritableHub() as hub:
        yield hub


@pytest.fixture
def owner(hub: WritableHub, tmp_path: Path) -> Machine:
    """Has a harvest, and may write."""
    SmallHarvest(tmp_path / "owner/harvest" / NAME).run()
    return machine(hub, tmp_path / "owner", hub.token)


@pytest.fixture
def reader(hub: WritableHub, tmp_path: Path) -> Machine:
    """Has nothing, and may read."""
    return machine(hub, tmp_path / "reader", "")


def machine(hub: WritableHub, out_dir: Path, token: str) -> Machine:
    return Machine(out_dir, {**hub.environment(out_dir / "huggingface"), "HF_TOKEN": token})


def repository(hub: WritableHub) -> dict[str, bytes]:
    return hub.repositories["datasets", "owner/counts"]


def test_what_is_pulled_is_what_was_pushed(hub: WritableHub, owner: Machine, reader: Machine):
    owner.done("push", NAME, PLACE)
    stored = repository(hub)
    card = stored["README.md"].decode()
    assert PLACE in card
    assert NAME in card
    assert reader.done("pull", PLACE)
    pulled = reader.files(NAME)
    assert pulled.items() <= owner.files(NAME).items()
    assert pulled == {k: v for k, v in stored.items() if k not in ("README.md", "contents.json")}
    assert len(pulled) == 5 + 4 + 2  # results, tables, manifest and plan


@pytest.mark.slow
def test_nothing_is_overwritten_on_either_side(hub: WritableHub, owner: Machine, reader: Machine):
    hub.add("datasets", "owner/counts", {"README.md": b"mine"})
    owner.done("push", NAME, PLACE)
    first = dict(repository(hub))
    assert first["README.md"] == b"mine"
    assert "already" in owner.done("push", NAME, PLACE)

    SmallHarvest(owner.out_dir / "harvest/second", seed=1).run()
    assert PLACE in owner.refused("push", "second", PLACE)
    assert repository(hub) == first
    owner.done("push", "second", f"{PLACE}@second")
    assert repository(hub) == first

    reader.done("pull", PLACE, "--out-name", "here")
    kept = reader.files("here")
    assert "already" in reader.done("pull", PLACE, "--out-name", "here")
    assert "here" in reader.refused("pull", f"{PLACE}@second", "--out-name", "here")
    assert reader.files("here") == kept
    reader.done("pull", f"{PLACE}@second")
    assert reader.files("second").items() <= owner.files("second").items()
    assert "nowhere" in reader.refused("pull", f"{PLACE}@nowhere")


@pytest.mark.slow
def test_an_interrupted_push_continues(hub: WritableHub, owner: Machine):
    arrived: list[str] = []

    def fails_later(oid: str) -> int | None:
        arrived.append(oid)
        return 400 if len(arrived) > 3 else None

    hub.on_object = fails_later
    assert PLACE in owner.refused("push", NAME, PLACE)
    assert repository(hub) == {}
    stored = set(hub.objects)
    assert len(stored) == 3
    again: list[str] = []
    hub.on_object = again.append
    owner.done("push", NAME, PLACE)
    assert not stored & set(again)
    assert repository(hub).keys() >= {"contents.json", "README.md", LAST}


@pytest.mark.slow
def test_a_pull_that_was_killed_continues(
    hub: WritableHub, owner: Machine, reader: Machine, monkeypatch: pytest.MonkeyPatch
):
    owner.done("push", NAME, PLACE)
    begun, release = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == LAST:
            begun.set()
            release.wait(60)

    hub.on_file = wait
    reader.killed(begun, "pull", PLACE)
    release.set()
    assert reader.files(NAME) == {}
    monkeypatch.setenv("SPD_OUT_DIR", str(reader.out_dir))
    (left,) = removable()
    assert left.path.parent == reader.out_dir / "harvest"

    hub.requests.clear()
    reader.done("pull", PLACE)
    fetched = [re.sub(r".*/resolve/[0-9a-f]+/", "", it) for it in hub.requests if it[:4] == "GET "]
    assert LAST in fetched
    assert "activation_contexts/components.jsonl" not in fetched
    assert reader.files(NAME).items() <= owner.files(NAME).items()
    assert removable() == []


@pytest.mark.slow
def test_what_push_did_not_write_does_no_harm(hub: WritableHub, owner: Machine, reader: Machine):
    owner.done("push", NAME, PLACE)
    good = dict(repository(hub))
    contents = json.loads(good["contents.json"])

    def listing(files: dict[str, object]) -> bytes:
        changed = {k: v for k, v in contents.items() if k != "digest"}
        changed["files"] = {**contents["files"], **files}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        return json.dumps({**changed, "digest": digest}).encode()

    evil = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    bad = {
        "a long list": {**good, "contents.json": b" " * (2 << 20)},
        "outside": {**good, "contents.json": listing({"../evil": evil}), "../evil": b"evil"},
        "another size": {**good, LAST: good[LAST] + b"!"},
        "another content": {**good, LAST: good[LAST][:-1] + bytes([good[LAST][-1] ^ 1])},
    }
    for kind, files in bad.items():
        hub.add("datasets", "owner/counts", files)
        assert PLACE in reader.refused("pull", PLACE), kind
        assert list((reader.out_dir / "harvest").glob("**/*")) == [], kind
    hub.add("datasets", "owner/counts", {**good, "further.pt": b"not asked for"})
    reader.done("pull", PLACE)
    assert "further.pt" not in reader.files(NAME)


@pytest.mark.slow
def test_tokens_are_never_printed(hub: WritableHub, tmp_path: Path, reader: Machine):
    SmallHarvest(tmp_path / "other/harvest" / NAME).run()
    wrong = "hf_" + "w" * 30
    shown = machine(hub, tmp_path / "other", wrong).refused("push", NAME, PLACE, "--debug")
    assert "hf auth login" in shown
    assert wrong not in shown
    stored = tmp_path / "other/huggingface/token"
    stored.parent.mkdir()
    stored.write_text(wrong)
    shown = machine(hub, tmp_path / "other", "").refused("push", NAME, PLACE, "--debug")
    assert "hf auth login" in shown
    assert wrong not in shown
    assert hub.repositories == {}
    assert "owner/counts" in reader.refused("pull", PLACE)
    for odd in ("owner/counts", "hf://owner/counts", "hf://datasets/counts", "hf://datasets/a/b/c"):
        assert "hf://datasets/OWNER/NAME" in reader.refused("pull", odd)
