"""Dictionaries harvested through the public assets: equal to loops, however the work is cut."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from starlette.testclient import TestClient

from harvest_assets.cli.main import cli
from harvest_assets.data.token_rows import TokenRows
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptQuestion, answer_prompt
from harvest_assets.loaders import activation_examples, load_components_frame
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.in_progress import HarvestInProgress
from harvest_assets.viewer.library import Library
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests import oracle
from harvest_assets_tests.decompositions.dictionaries.tiny_set import (
    KEYS,
    LAYERS,
    N_LATENTS,
    by_formula,
    change,
    write_set,
)
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence

N_ROWS = SETTINGS["n_batches"] * SETTINGS["batch_size"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def harvested(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyHarvest:
    """A harvest with two shards, which the tests of this file only read."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(tmp_path_factory.mktemp("out")))
        tiny = TinyHarvest.of(instance, folder)
        tiny.harvest(n_shards=2)
        yield tiny


def rows_of(tiny: TinyHarvest) -> np.ndarray:
    pointer = json.loads(tiny.layout.token_rows.read_text())
    data = tiny.layout.root.parent.parent / "data" / pointer["fingerprint"]
    return TokenRows.open(data).rows(0, N_ROWS).numpy()


def test_counts_equal_loops_and_activations_a_formula(harvested: TinyHarvest, folder: Path):
    tokens = rows_of(harvested)
    activations, probs = by_formula(folder, tokens)
    truth = oracle.statistics(tokens, activations, probs, 0.0)
    alive = np.flatnonzero(truth.firing_counts)
    assert len(alive) > N_LATENTS
    assert len(alive) < len(KEYS)

    correlations = torch.load(harvested.layout.component_correlations, weights_only=True)
    assert correlations["component_keys"] == KEYS
    np.testing.assert_array_equal(correlations["count_i"], truth.firing_counts)
    np.testing.assert_array_equal(correlations["count_ij"], truth.count_ij)
    stats = torch.load(harvested.layout.token_stats, weights_only=True)
    np.testing.assert_array_equal(stats["input_counts"], truth.input_token_counts)
    np.testing.assert_allclose(stats["output_counts"], truth.output_token_prob_mass, rtol=1e-4)

    lines = [json.loads(line) for line in harvested.layout.components.read_text().splitlines()]
    assert [line["component_key"] for line in lines] == [KEYS[c] for c in alive]
    table = pl.read_parquet(harvested.layout.example_positions).sort("flat_index", "rank")
    for line, c in zip(lines, alive, strict=True):
        mean = oracle.mean_ci(truth.ci_sums[c], truth.total_tokens_processed)
        assert line["mean_ci"] == pytest.approx(mean, rel=1e-4)
        places = table.filter(flat_index=int(c)).select("row", "position").rows()
        assert places
        for example, firing in zip(line["activation_examples"], places, strict=True):
            window = oracle.window(tokens, activations, activations, firing, c, tokens_per_side=4)
            assert example["token_ids"] == window.token_ids
            assert example["ci_values"] == pytest.approx(window.ci_values, abs=1e-5)
            assert example["component_acts"] == example["ci_values"]


def test_shards_and_batches_change_no_result(harvested: TinyHarvest, folder: Path, out_dir: Path):  # noqa: ARG001
    with dg.DagsterInstance.ephemeral() as instance:
        other = TinyHarvest.of(instance, folder)
        other.harvest(n_shards=1, n_batches=N_ROWS // 3, batch_size=3)
    for name in ("components", "component_correlations", "token_stats"):
        one, two = (getattr(it.layout, name).read_bytes() for it in (harvested, other))
        assert one == two, name


def test_what_is_recorded(harvested: TinyHarvest, folder: Path):
    assert harvested.key == parse_run(str(folder / "dictionaries.yaml")).name.key
    assert harvested.key.startswith("local/tiny_set/x-")
    config = json.loads(harvested.layout.config.read_text())
    assert (config["kind"], config["firing_strength"]) == ("dictionaries", "activation")
    assert (config["ci_threshold"], config["data_seed"]) == (0, 3)
    assert config["checkpoint"] == "dictionaries.yaml"
    described = {it["name"]: it for it in config["dictionaries"]}
    assert list(described) == LAYERS
    assert "1.5 x S" in described["h.1.rms_2.output"]["activation"]
    assert [note for note in config["notes"] if "h.1.rms_2.output" in note]
    assert not {"sigmoid_type", "sampling"} & set(config)
    opened = open_decomposition(harvested.layout.root)
    assert isinstance(opened, Decomposition)
    assert opened.layers == tuple((layer, N_LATENTS) for layer in LAYERS)
    assert not list(problems_of(harvested.layout))


def test_readers_and_pages_show_activations(harvested: TinyHarvest):
    run_id = harvested.layout.root.name
    frame = load_components_frame(run_id)
    assert set(frame["layer"]) <= set(LAYERS)
    examples = activation_examples(run_id, KEYS[0], 3)
    assert len(examples) == 3
    assert examples[0].example.ci_values[4] > 0
    with TestClient(make_app(Library(), None), base_url="http://127.0.0.1") as client:
        for path in (
            f"/run/{run_id}",
            f"/run/{run_id}/component/{KEYS[0]}",
            f"/compare?run_a={run_id}&a={KEYS[0]}&b={KEYS[1]}",
            f"/run/{run_id}/export.html?key={KEYS[0]}",
        ):
            page = client.get(path)
            assert page.status_code == 200, path
            assert "activation" in page.text, path
            shown = page.text.partition("<main")[2]
            assert "ausal importance" not in shown, path
            assert " CI" not in shown, path


def test_a_harvest_in_progress_has_the_same_words(harvested: TinyHarvest):
    plan = HarvestPlan.open(harvested.layout.root)
    assert HarvestInProgress(harvested.layout, plan).words.long == "activation"


def test_one_layer_and_another_threshold(folder: Path, out_dir: Path):  # noqa: ARG001
    with dg.DagsterInstance.ephemeral() as instance:
        tiny = TinyHarvest.of(instance, folder)
        tiny.harvest(layers=["h.1.rms_2.*"], ci_threshold=0.5)
    activations, _ = by_formula(folder, rows_of(tiny))
    counts = torch.load(tiny.layout.component_correlations, weights_only=True)
    assert counts["component_keys"] == KEYS[2 * N_LATENTS :]
    expected = (activations[..., 2 * N_LATENTS :] > 0.5).sum((0, 1))
    np.testing.assert_array_equal(counts["count_i"], expected)
    assert json.loads(tiny.layout.config.read_text())["ci_threshold"] == 0.5


def test_a_file_that_changed_is_refused(tmp_path: Path, out_dir: Path):  # noqa: ARG001
    folder = write_set(tmp_path / "world")
    with dg.DagsterInstance.ephemeral() as instance:
        tiny = TinyHarvest.of(instance, folder)
        assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
        path = folder / "sae_topk" / "sae_weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        assert "dictionaries.yaml" in sentence(tiny.stage("harvest", shard="00"))
        change(folder, dictionaries=[])
        assert "dictionaries" in sentence(tiny.stage("prepare", **SETTINGS))


@pytest.mark.slow
def test_the_command_harvests_a_set_and_finds_it_finished(
    tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    path = str(write_set(tmp_path / "world") / "dictionaries.yaml")
    settings = ["--n-batches", "4", "--batch-size", "8"]
    ran = CliRunner().invoke(cli, ["harvest", path, *settings])
    assert ran.exit_code == 0, ran.output
    (results,) = (out_dir / "harvest").iterdir()
    before = (results / "activation_contexts" / "components.jsonl").stat().st_mtime_ns
    again = CliRunner().invoke(cli, ["harvest", path, *settings])
    assert again.exit_code == 0, again.output
    assert (results / "activation_contexts" / "components.jsonl").stat().st_mtime_ns == before
    verified = CliRunner().invoke(cli, ["verify", results.name])
    assert (verified.exit_code, "agrees" in verified.output) == (0, True)


def test_a_text_is_answered_by_the_formula(harvested: TinyHarvest, folder: Path):
    tokens = rows_of(harvested)[:1, :7]
    activations, probs = by_formula(folder, tokens)
    question = PromptQuestion(ids=tokens[0].tolist(), top=len(KEYS), predictions=1)
    answer = answer_prompt(OpenedRun(harvested.layout), question)
    for position, acts, p in zip(answer.positions, activations[0], probs[0], strict=True):
        found = {it.component: it.strength for it in position.firing}
        assert all(it.second is None for it in position.firing)
        fires = {KEYS[c]: acts[c] for c in np.flatnonzero(acts > 0)}
        assert found == pytest.approx(fires, rel=1e-4, abs=1e-5)
        assert position.predictions[0].probability == pytest.approx(p.max(), rel=1e-4)
    page = TestClient(make_app(Library(), None)).get(
        f"/run/{harvested.layout.root.name}/component/{KEYS[0]}", headers={"host": "127.0.0.1"}
    )
    assert "/prompt?component=" in page.text
