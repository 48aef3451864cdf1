"""`manifest.json`: a mix of two harvests is seen, and said where people read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path

import pytest

from harvest_assets.files import manifest
from harvest_assets.files.commit import publish_files
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements, is_intact, read, record
from harvest_assets.files.records import sha256_of
from harvest_assets.loaders import activation_examples, load_activation_contexts_summary
from harvest_assets_tests.files.sealed import change


@pytest.fixture
def paths(out_dir: Path) -> HarvestLayout:
    """Five files, each written down under one plan."""
    paths = HarvestLayout(out_dir / "harvest" / "aaaaaaaa")
    for file in paths.five_files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        record(paths, file, "plan-a")
    return paths


def test_an_entry_records_size_digest_and_plan(paths: HarvestLayout):
    paths.token_stats.write_bytes(b"12345")
    record(paths, paths.token_stats, "plan-b")
    entries = json.loads(paths.manifest.read_text())["files"]
    assert entries == {name: vars(entry) for name, entry in read(paths).items()}
    assert set(entries) == {
        "activation_contexts/config.json",
        "activation_contexts/summary.json",
        "activation_contexts/components.jsonl",
        "correlations/component_correlations.pt",
        "correlations/token_stats.pt",
    }
    assert entries["correlations/token_stats.pt"] == {
        "size": 5,
        "sha256": hashlib.sha256(b"12345").hexdigest(),
        "plan": "plan-b",
        "stamp": None,  # another write in the same tick would not show
    }


def test_files_of_one_plan_agree(paths: HarvestLayout):
    assert disagreements(paths, deep=True) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_activation_contexts_summary("aaaaaaaa")


def test_a_mix_of_plans_is_seen_and_said_once(paths: HarvestLayout):
    record(paths, paths.token_stats, "plan-b")
    for load in (
        lambda: load_activation_contexts_summary("aaaaaaaa"),
        lambda: activation_examples("aaaaaaaa", "h.0:0", 1),
    ):
        with pytest.warns(UserWarning, match="different harvests") as caught:
            load()
        assert [warning.filename for warning in caught] == [__file__]


def test_changed_files_are_named(paths: HarvestLayout):
    paths.token_stats.write_text("{ ")
    assert disagreements(paths) == []
    (problem,) = disagreements(paths, deep=True)
    assert "digest" in problem
    assert str(paths.token_stats) in problem
    paths.token_stats.write_text("{")
    with pytest.warns(UserWarning, match=r"token_stats\.pt does not have the size"):
        load_activation_contexts_summary("aaaaaaaa")
    paths.token_stats.unlink()
    (problem,) = disagreements(paths)
    assert "missing" in problem


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": []}', '{"files": {"a": 1}}', "\xff"])
def test_a_damaged_manifest_vouches_for_nothing(paths: HarvestLayout, content: str):
    paths.manifest.write_text(content, encoding="latin-1")
    problems = disagreements(paths)
    assert len(problems) == len(paths.five_files)
    assert all("does not name" in sentence for sentence in problems)
    for file in paths.five_files:
        record(paths, file, "plan-a")
    assert disagreements(paths, deep=True) == []


class _Results:
    """The five files and the tables."""

    plan_digest = "plan-a"

    def write(self, directory: Path) -> None:
        paths = HarvestLayout(directory)
        for file in (*paths.five_files, *paths.tables):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"12345")
        time.sleep(0.05)  # a tick, which syncing a real disk takes


@pytest.fixture
def published(out_dir: Path) -> HarvestLayout:
    paths = HarvestLayout(out_dir / "harvest" / "aaaaaaaa")
    publish_files(paths, _Results())
    return paths


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Gains each file that is read."""
    files: list[Path] = []
    monkeypatch.setattr(
        manifest, "sha256_of", lambda path: (files.append(path), sha256_of(path))[1]
    )
    return files


def test_the_stamp_is_that_of_the_published_file(published: HarvestLayout):
    status = published.token_stats.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    entries = json.loads(published.manifest.read_bytes())["files"]
    assert entries["correlations/token_stats.pt"]["stamp"] == stamp


def test_only_files_of_other_stamps_are_read(published: HarvestLayout, digested: list[Path]):
    assert is_intact(published, "plan-a")
    assert not is_intact(published, "plan-b")
    assert digested == []
    copy = published.root / "copy"
    shutil.copy2(published.component_index, copy)
    copy.replace(published.component_index)
    assert is_intact(published, "plan-a")
    assert digested == [published.component_index]


def test_a_table_that_new_results_lack_is_removed(published: HarvestLayout):
    class Newer(_Results):
        plan_digest = "plan-b"

        def write(self, directory: Path) -> None:
            super().write(directory)
            HarvestLayout(directory).highest_activation_examples.write_bytes(b"12345")

    publish_files(published, Newer())
    assert is_intact(published, "plan-b")
    published.highest_activation_examples.write_bytes(b"12346")
    assert not is_intact(published, "plan-b")
    publish_files(published, _Results())
    assert not published.highest_activation_examples.exists()
    assert is_intact(published, "plan-a")


@pytest.mark.parametrize("name", ["components", "component_index"])
@pytest.mark.parametrize("has_stamps", [True, False])
def test_damage_of_equal_size_is_found_whatever_the_times_of_the_manifest(
    *, published: HarvestLayout, name: str, has_stamps: bool
):
    if not has_stamps:
        _remove_stamps(published)
    file: Path = getattr(published, name)
    before = file.stat()
    file.write_bytes(b"12346")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(0.05)
    published.manifest.chmod(0o600)
    assert not is_intact(published, "plan-a")


def test_files_are_read_where_a_manifest_has_no_stamps(
    published: HarvestLayout, digested: list[Path]
):
    _remove_stamps(published)
    assert disagreements(published) == []
    assert is_intact(published, "plan-a")
    assert set(digested) == {*published.five_files, *published.tables}


def _remove_stamps(paths: HarvestLayout) -> None:
    entries = json.loads(paths.manifest.read_bytes())["files"]
    for entry in entries.values():
        del entry["stamp"]
    change(paths.manifest, files=entries)
