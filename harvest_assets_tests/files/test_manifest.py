"""`manifest.json`: a mix of two harvests is seen, and said where people read."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import pytest

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements, read, record
from harvest_assets.loaders import activation_examples, load_activation_contexts_summary


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
