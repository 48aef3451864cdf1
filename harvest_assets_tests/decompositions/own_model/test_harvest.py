"""Functions of tokens harvested through the public assets: equal to loops, or refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from harvest_assets.data.token_rows import TokenRows
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import registration_path
from harvest_assets.loaders import activation_examples, load_components_frame
from harvest_assets.store.finished import is_finished
from harvest_assets.store.registry import register, registration_for, registration_of
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests import oracle
from harvest_assets_tests.decompositions.own_model.tiny_module import (
    KEYS,
    LAYERS,
    by_loops,
    n_imports,
    n_rows_computed,
    write_module,
)
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence

NAME = "decomposition"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world") / "models"


@pytest.fixture(scope="module")
def harvested(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyHarvest:
    """A harvest in two shards of a function with an identity, which the tests only read."""
    file = write_module(folder, identity="version 1", second_value="negative value")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(tmp_path_factory.mktemp("out")))
        tiny = TinyHarvest.of(instance, named(file))
        tiny.harvest(n_shards=2, ci_threshold=0.5)
        yield tiny


@pytest.fixture
def instance(out_dir: Path) -> dg.DagsterInstance:  # noqa: ARG001
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def named(file: Path) -> Path:
    return file.with_name(f"{file.name}:{NAME}")


def forget(file: Path) -> None:
    """Have a module imported again by whoever needs it next."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == str(file):
            del sys.modules[name]


def rows_of(tiny: TinyHarvest) -> np.ndarray:
    pointer = json.loads(tiny.layout.token_rows.read_text())
    data = tiny.layout.root.parent.parent / "data" / pointer["fingerprint"]
    n_rows = SETTINGS["n_batches"] * SETTINGS["batch_size"]
    return TokenRows.open(data).rows(0, n_rows).numpy()


def results_of(tiny: TinyHarvest) -> list[bytes]:
    layout = tiny.layout
    files = (layout.components, layout.component_correlations, layout.token_stats)
    return [file.read_bytes() for file in files]


def test_counts_equal_loops(harvested: TinyHarvest):
    tokens = rows_of(harvested)
    strengths, probs = by_loops(tokens)
    truth = oracle.statistics(tokens, strengths, probs, 0.5)
    assert truth.firing_counts.all()
    assert len(set(truth.firing_counts)) > 1

    correlations = torch.load(harvested.layout.component_correlations, weights_only=True)
    assert correlations["component_keys"] == KEYS
    np.testing.assert_array_equal(correlations["count_i"], truth.firing_counts)
    np.testing.assert_array_equal(correlations["count_ij"], truth.count_ij)
    stats = torch.load(harvested.layout.token_stats, weights_only=True)
    np.testing.assert_array_equal(stats["input_counts"], truth.input_token_counts)
    np.testing.assert_allclose(stats["output_counts"], truth.output_token_prob_mass, rtol=1e-5)
    examples = activation_examples(harvested.layout.root.name, KEYS[1], 3)
    for it in examples:
        firing = it.example.component_acts[4]
        assert firing == pytest.approx(-4 * it.example.ci_values[4])


def test_what_is_recorded(harvested: TinyHarvest):
    assert harvested.key.startswith("local/models/x-")
    config = json.loads(harvested.layout.config.read_text())
    assert (config["kind"], config["object"]) == ("own_model", "tiny_own.py:decomposition")
    assert (config["second_value"], config["checkpoint"]) == ("negative value", "tiny_own.py")
    opened = open_decomposition(harvested.layout.root)
    assert isinstance(opened, Decomposition)
    assert opened.layers == tuple(LAYERS.items())
    assert not list(problems_of(harvested.layout))


def test_reading_results_imports_no_module(harvested: TinyHarvest, folder: Path):
    forget(folder / "tiny_own.py")
    before = n_imports(folder)
    run_id = harvested.layout.root.name
    load_components_frame(run_id)
    with TestClient(make_app(Library(), None), base_url="http://127.0.0.1") as client:
        for path in (f"/run/{run_id}", f"/run/{run_id}/component/{KEYS[0]}"):
            page = client.get(path)
            assert page.status_code == 200, path
            shown = page.text.partition("<main")[2]
            assert "firing strength" in shown, path
            assert "ausal importance" not in shown, path
        assert "negative value" in client.get(f"/run/{run_id}/component/{KEYS[0]}").text
    assert n_imports(folder) == before


def test_a_received_description_imports_no_module(tmp_path: Path, instance: dg.DagsterInstance):
    """Whoever receives results executes no module that they name."""
    file = write_module(tmp_path / "own", identity="1", second="None")
    evil = write_module(tmp_path / "evil", identity="1", second="None")
    tiny = TinyHarvest.of(instance, named(file))
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    described = open_decomposition(tiny.layout.root)
    dataclasses.replace(described, config_path=str(named(evil))).write(tiny.layout.root)
    assert str(named(evil)) in sentence(tiny.stage("harvest", shard="00"))
    described.write(tiny.layout.root)
    registration_path(tiny.key).unlink()
    assert "not registered" in sentence(tiny.stage("harvest", shard="00"))
    assert n_imports(evil.parent) == 0


@pytest.mark.parametrize("of", ["registration", "module"])
def test_a_registration_that_others_can_change_imports_no_module(
    tmp_path: Path, instance: dg.DagsterInstance, of: str
):
    file = write_module(tmp_path / "own", identity="1", second="None")
    tiny = TinyHarvest.of(instance, named(file))
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    forget(file)
    before = n_imports(file.parent)
    changed = registration_path(tiny.key) if of == "registration" else file
    changed.chmod(0o664)
    assert changed.name in sentence(tiny.stage("prepare", **SETTINGS, n_shards=1))
    assert changed.name in sentence(tiny.stage("harvest", shard="00"))
    assert not is_finished(registration_of(tiny.key), {}, None)
    with pytest.raises(HarvestError, match=changed.name):
        registration_for(parse_run(tiny.key))
    assert n_imports(file.parent) == before
    file.chmod(0o644)
    register(parse_run(str(named(file))))
    assert tiny.stage("harvest", shard="00").success


def test_with_an_identity_shards_stops_and_batches_change_nothing(
    harvested: TinyHarvest, folder: Path, instance: dg.DagsterInstance
):
    other = TinyHarvest.of(instance, named(folder / "tiny_own.py"))
    settings = {**SETTINGS, "n_batches": 4, "batch_size": 12, "ci_threshold": 0.5}
    assert other.stage("prepare", **settings, n_shards=1).success
    before = n_rows_computed(folder)
    (folder / "stop").touch()
    with suppress(KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        assert not other.stage("harvest", shard="00").success
    assert n_rows_computed(folder) == before + 8
    assert other.stage("harvest", shard="00").success
    assert n_rows_computed(folder) == before + 48
    assert other.stage("merge").success
    assert results_of(other) == results_of(harvested)

    registration = registration_of(other.key)
    again = {**settings, "n_shards": 1}
    assert is_finished(registration, again, None)
    assert not is_finished(registration, again | {"n_batches": 5}, None)
    assert other.stage("prepare", **again | {"n_batches": 5}).success
    before = n_rows_computed(folder)
    assert other.stage("harvest", shard="00").success
    assert n_rows_computed(folder) == before + 16, "only the new rows, by whole groups"


def test_another_identity_is_refused_in_the_middle(tmp_path: Path, instance: dg.DagsterInstance):
    file = write_module(tmp_path / "own", identity="version 1", second="None")
    tiny = TinyHarvest.of(instance, named(file))
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    write_module(tmp_path / "own", identity="version 2", second="None")
    forget(file)
    assert "tiny_own.py:decomposition" in sentence(tiny.stage("harvest", shard="00"))


@pytest.mark.slow
def test_without_an_identity_all_is_harvested_at_once(tmp_path: Path, instance: dg.DagsterInstance):
    file = write_module(tmp_path / "own", second="None")
    tiny = TinyHarvest.of(instance, named(file))
    assert "identity" in sentence(tiny.stage("prepare", **SETTINGS, n_shards=2))
    tiny.harvest()
    results = results_of(tiny)
    lines = tiny.layout.components.read_text().splitlines()
    assert [json.loads(line)["component_key"] for line in lines] == KEYS
    assert not is_finished(registration_of(tiny.key), {}, None), "nobody knows"
    for settings in ({}, {"n_batches": 5}, {"n_shards": 1}):
        assert "identity" in sentence(tiny.stage("prepare", **{**SETTINGS, **settings}))
    assert results_of(tiny) == results


def test_a_stopped_harvest_without_an_identity_is_not_resumed(
    tmp_path: Path, instance: dg.DagsterInstance
):
    file = write_module(tmp_path / "own", second="None")
    tiny = TinyHarvest.of(instance, named(file))
    assert tiny.stage("prepare", **SETTINGS).success
    (file.parent / "stop").touch()
    with suppress(KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        assert not tiny.stage("harvest", shard="00").success
    assert "identity" in sentence(tiny.stage("harvest", shard="00"))
    assert "identity" in sentence(tiny.stage("prepare", **SETTINGS))
