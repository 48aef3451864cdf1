"""A finished harvest is recognised, and so is everything that would change it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.files.lease import hold_lease
from harvest_assets.settings import HarvestSettings
from harvest_assets.store.finished import is_finished
from harvest_assets.store.registry import registration_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import write_world


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyHarvest]:
    """A harvest made once; a test that changes a file puts it back."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(place / "out"))
        run = write_world(place / "world")
        time.sleep(2.1)  # what was written just now has no stamp
        harvest = TinyHarvest.of(dg.DagsterInstance.ephemeral(), run)
        harvest.harvest(2)
        yield harvest


def answer(harvest: TinyHarvest, step: int | None = None, **settings) -> bool:
    asked = HarvestSettings(**{**SETTINGS, "n_shards": 2, **settings}).model_dump()
    return is_finished(registration_of(harvest.key), asked, step)


def world(harvest: TinyHarvest) -> Path:
    return harvest.layout.root.parents[2] / "world"


def test_the_same_settings_find_it_finished(finished: TinyHarvest):
    assert answer(finished)
    assert answer(finished, step=100)
    assert is_finished(registration_of(finished.key), {}, None)


@pytest.mark.parametrize(
    "settings",
    [{"n_batches": 7}, {"seed": 1}, {"n_shards": 1}, {"context_length": 8}, {"layers": ("h.0*",)}],
    ids=str,
)
def test_other_settings_do_not(finished: TinyHarvest, settings: dict[str, object]):
    assert not answer(finished, **settings)


def test_another_step_does_not(finished: TinyHarvest):
    assert not answer(finished, step=200)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _flip(path: Path) -> None:
    """Another content of the same size and modification time."""
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip_before_the_manifest(path: Path) -> None:
    """As `_flip`, but the manifest's own times are later, as after `chmod -R`."""
    _flip(path)
    time.sleep(0.05)
    (path.parents[1] / "manifest.json").touch()


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a result is gone": ("{root}/activation_contexts/summary.json", Path.unlink),
    "a result is longer": ("{root}/activation_contexts/summary.json", _append),
    "a bit of a result is flipped": ("{root}/activation_contexts/components.jsonl", _flip),
    "a bit of a table is flipped": ("{root}/activation_contexts/component_index.parquet", _flip),
    "the manifest looks newer": (
        "{root}/activation_contexts/components.jsonl",
        _flip_before_the_manifest,
    ),
    "the manifest is gone": ("{root}/manifest.json", Path.unlink),
    "the plan is damaged": ("{root}/plan.json", _flip),
    "the merged state is gone": ("{root}/merged/current.json", Path.unlink),
    "the merged state is cut": ("{root}/merged/*/state/statistics.safetensors", _cut),
    "the checkpoint changed": ("{world}/tiny_run/model_100.pth", _append),
    "the config changed": ("{world}/tiny_run/final_config.yaml", _append),
    "the dataset changed": ("{world}/dataset/train.parquet", _flip),
    "the dataset is gone": ("{world}/dataset/train.parquet", Path.unlink),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changed_is_noticed(finished: TinyHarvest, tmp_path: Path, change: str):
    name, apply = CHANGES[change]
    pattern = name.format(root=finished.layout.root, world=world(finished))
    (path,) = Path("/").glob(pattern.lstrip("/"))
    shutil.copy2(path, tmp_path / "before")
    try:
        apply(path)
        assert not answer(finished)
    finally:
        shutil.copy2(tmp_path / "before", path)
    assert answer(finished)


@pytest.mark.parametrize(
    ("source", "added"),
    [
        ("tiny_run/model_100.pth", "tiny_run/model_200.pth"),
        ("dataset/train.parquet", "dataset/train-2.parquet"),
    ],
)
def test_further_files_are_noticed(finished: TinyHarvest, source: str, added: str):
    shutil.copy2(world(finished) / source, world(finished) / added)
    try:
        assert not answer(finished)
    finally:
        (world(finished) / added).unlink()
    assert answer(finished)


@pytest.mark.parametrize("keep", ["all", "none"])
def test_states_that_are_still_to_be_removed_are_noticed(
    finished: TinyHarvest, keep: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_KEEP", keep)
    assert answer(finished) == (keep == "all")


def test_without_states_the_results_must_be_newer_than_the_rows(
    finished: TinyHarvest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_KEEP", "none")
    paths = finished.layout
    paths.merged.rename(tmp_path / "merged")
    rows = paths.token_rows.stat()
    try:
        assert answer(finished)
        # As it is when the rows of other data were prepared, and nothing was harvested of them yet.
        later = paths.manifest.stat().st_mtime_ns + 1
        os.utime(paths.token_rows, ns=(later, later))
        assert not answer(finished)
        os.utime(paths.token_rows, ns=(rows.st_atime_ns, rows.st_mtime_ns))
        saved = paths.shard_saved("00")
        saved.parent.mkdir(parents=True)
        saved.touch()
        assert not answer(finished)
        shutil.rmtree(saved.parent)
        assert answer(finished)
    finally:
        (tmp_path / "merged").rename(paths.merged)


def test_without_its_tokenizer_it_is_harvested_again(finished: TinyHarvest, tmp_path: Path):
    finished.layout.tokenizer.rename(tmp_path / "tokenizer")
    try:
        assert not answer(finished)
    finally:
        (tmp_path / "tokenizer").rename(finished.layout.tokenizer)


def test_a_harvest_that_a_process_works_on_is_not_finished(finished: TinyHarvest):
    for lease in (finished.layout.harvest_lease, finished.layout.merge_lease):
        with hold_lease(lease, "a test"):
            assert not answer(finished)
    assert answer(finished)


def test_the_command_answers_without_dagster_and_model_code(finished: TinyHarvest):
    time.sleep(2.1)
    assert finished.stage("prepare").success  # other tests have changed times of files
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    arguments = [str(world(finished) / "tiny_run"), *options, "--n_shards=2"]
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded', *sys.modules))\n"
        f"from harvest_assets.cli.main import cli\ncli({arguments})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, _, loaded = done.stdout.rpartition("\nloaded ")
    assert f"{finished.key} is already harvested" in said
    assert finished.layout.components.name in said
    assert not {"dagster", "torch", "transformers", "datasets"}.intersection(loaded.split())
