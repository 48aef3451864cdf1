"""Which kind of decomposition a run is, by its config and by what was recorded of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harvest_assets.decompositions import registry
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.decompositions import tiny_dictionary
from harvest_assets_tests.decompositions.tiny_dictionary import TinyDictionary
from harvest_assets_tests.tiny_run import write_world

LATER_KEYS = (
    "tokenizer_path",
    "tokenizer_sha256",
    "file_stamps",
    "format_version",
    "digest",
)  # than version 0.1


@pytest.fixture(autouse=True)
def two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KINDS", (TinyDictionary, *registry.KINDS))


@pytest.fixture(scope="module")
def spd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), n_texts=40)


def verified(run: Path) -> Decomposition:
    return registry.verify(fetch_run(parse_run(str(run))))


@pytest.mark.parametrize("kind", ["spd", "dictionary"])
def test_a_run_is_of_the_kind_of_its_config_and_stays_it(kind: str, spd_run: Path, tmp_path: Path):
    run = spd_run if kind == "spd" else tiny_dictionary.write_run(tmp_path / "world")
    found = verified(run)
    assert (found.kind, found.n_components) == (kind, sum(c for _, c in found.layers))
    found.write(tmp_path)
    opened = registry.open_decomposition(tmp_path)
    assert opened == found
    assert type(opened) is type(found)


def test_what_version_0_1_recorded_is_spd(spd_run: Path, tmp_path: Path):
    found = verified(spd_run)
    found.write(tmp_path)
    path = HarvestLayout(tmp_path).run_checkpoint
    record = json.loads(path.read_text())
    assert "kind" not in record
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in LATER_KEYS}))
    opened = registry.open_decomposition(tmp_path)
    assert (opened.kind, opened.sha256, opened.layers) == ("spd", found.sha256, found.layers)
    opened.open_model("cpu")


@pytest.mark.parametrize("kind", ["transcoder", 3, None, ["spd"], {}])
def test_a_record_of_an_unknown_kind_is_named(kind: object, tmp_path: Path):
    path = HarvestLayout(tmp_path).run_checkpoint
    path.write_text(json.dumps({"kind": kind}))
    with pytest.raises(HarvestError) as caught:
        registry.open_decomposition(tmp_path)
    assert str(path) in str(caught.value)
    assert str(kind) in str(caught.value)


def test_a_config_is_checked_by_the_kind_that_recognises_it(spd_run: Path, tmp_path: Path):
    registry.check_config(spd_run / "final_config.yaml")
    config = tmp_path / "final_config.yaml"
    for content, missing in (("kind: dictionary", "tokenizer"), ("kind: sparse", "task_name")):
        config.write_text(content)
        with pytest.raises(HarvestError, match=missing):
            registry.check_config(config)
