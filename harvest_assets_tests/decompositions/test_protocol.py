"""A kind of decomposition other than SPD, harvested through the public assets to all five files."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch

from harvest_assets.cli.dry_run import dry_run
from harvest_assets.cli.harvest_results import harvest_warnings
from harvest_assets.data.token_rows import TokenRows
from harvest_assets.decompositions import registry
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.loaders import activation_examples, load_token_stats
from harvest_assets.store.registry import registration_of
from harvest_assets.store.verification import problems_of
from harvest_assets_tests import oracle
from harvest_assets_tests.decompositions.tiny_dictionary import (
    LAYER,
    N_CTX,
    N_LATENTS,
    TinyDictionary,
    by_formula,
    write_run,
)
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence
from harvest_assets_tests.tiny_run import VOCAB

KEYS = [f"{LAYER}:{c}" for c in range(N_LATENTS)]
THRESHOLD = 0.25


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "KINDS", (TinyDictionary, *registry.KINDS))
    return write_run(tmp_path / "world")


@pytest.fixture
def tiny(out_dir: Path, run: Path) -> TinyHarvest:  # noqa: ARG001
    with dg.DagsterInstance.ephemeral() as instance:
        yield TinyHarvest.of(instance, run)


def harvested_tokens(tiny: TinyHarvest) -> np.ndarray:
    pointer = json.loads(tiny.layout.token_rows.read_text())
    data = tiny.layout.root.parent.parent / "data" / pointer["fingerprint"]
    return TokenRows.open(data).rows(0, SETTINGS["n_batches"] * SETTINGS["batch_size"]).numpy()


def test_a_dictionary_is_harvested_like_plain_loops(tiny: TinyHarvest, run: Path):
    tiny.harvest(n_shards=2, ci_threshold=THRESHOLD)
    tokens = harvested_tokens(tiny)
    assert tokens.shape[1] == N_CTX
    latents, probs = by_formula(run, tokens)
    assert (np.abs(latents - THRESHOLD) > 1e-6).all(), "a latent may fall either way"
    truth = oracle.statistics(tokens, latents, probs, THRESHOLD)
    assert 0 < (truth.firing_counts == 0).sum() < N_LATENTS

    correlations = torch.load(tiny.layout.component_correlations, weights_only=True)
    assert correlations["component_keys"] == KEYS
    np.testing.assert_array_equal(correlations["count_i"], truth.firing_counts)
    np.testing.assert_array_equal(correlations["count_ij"], truth.count_ij)
    stats = torch.load(tiny.layout.token_stats, weights_only=True)
    np.testing.assert_array_equal(stats["input_counts"], truth.input_token_counts)
    np.testing.assert_allclose(stats["output_counts"], truth.output_token_prob_mass, rtol=1e-5)
    np.testing.assert_allclose(stats["output_totals"], truth.output_token_prob_totals, rtol=1e-5)

    alive = [c for c in range(N_LATENTS) if truth.firing_counts[c]]
    lines = [json.loads(line) for line in tiny.layout.components.read_text().splitlines()]
    assert [line["component_key"] for line in lines] == [KEYS[c] for c in alive]
    assert list(json.loads(tiny.layout.summary.read_text())) == [KEYS[c] for c in alive]
    table = pl.read_parquet(tiny.layout.example_positions).sort("flat_index", "rank")
    for line, c in zip(lines, alive, strict=True):
        mean = oracle.mean_ci(truth.ci_sums[c], truth.total_tokens_processed)
        assert line["mean_ci"] == pytest.approx(mean, rel=1e-5)
        places = table.filter(flat_index=c).select("row", "position").rows()
        for example, firing in zip(line["activation_examples"], places, strict=True):
            # Without a second value, the first is in both places.
            window = oracle.window(tokens, latents, latents, firing, c, tokens_per_side=4)
            assert latents[firing][c] > THRESHOLD
            assert example["token_ids"] == window.token_ids
            assert example["ci_values"] == pytest.approx(window.ci_values, abs=1e-5)
            assert example["component_acts"] == example["ci_values"]
        counts, totals = truth.input_token_counts[c], truth.input_token_totals
        top, bottom = oracle.token_pmi(
            counts,
            totals,
            truth.firing_counts[c],
            truth.total_tokens_processed,
            top_k=5,
            vocab_limit=VOCAB,
        )
        expected = {"top": [list(pair) for pair in top], "bottom": [list(pair) for pair in bottom]}
        assert line["input_token_pmi"] == expected


def test_what_is_recorded_of_a_dictionary(tiny: TinyHarvest):
    tiny.harvest(ci_threshold=THRESHOLD, ci_noise=True, bf16=True)
    config = json.loads(tiny.layout.config.read_text())
    assert config["kind"] == "dictionary"
    assert config["notes"] == ["Latents are not scaled."]
    assert (config["checkpoint"], config["tokenizer_name"][-9:]) == ("model_7.pth", "tokenizer")
    assert not {"sigmoid_type", "sampling"} & set(config)
    assert (config["ci_noise"], config["bf16"]) == (False, False), "options that it does not have"
    opened = registry.open_decomposition(tiny.layout.root)
    assert isinstance(opened, TinyDictionary)
    assert isinstance(opened, Decomposition)
    assert f"{THRESHOLD:g}, rows of {N_CTX}." in harvest_warnings(tiny.layout)
    assert not list(problems_of(tiny.layout))


def test_a_tokenizer_that_only_readers_can_open_is_not_copied(tiny: TinyHarvest, run: Path):
    (run.parent / "tokenizer" / "tokenizer_config.json").write_text("{")
    prepared = tiny.stage("prepare", **SETTINGS)
    assert prepared.asset_materializations_for_node("run_checkpoint")
    logged = [entry.user_message for entry in tiny.instance.all_logs(prepared.run_id)]
    assert any("copy of the tokenizer" in message for message in logged)
    assert not tiny.layout.tokenizer.exists()


def test_readers_and_the_dry_run_know_a_dictionary(tiny: TinyHarvest):
    would = dry_run(registration_of(tiny.key), SETTINGS, None, "here")
    assert would.checkpoint.model_name() == "a model of two tokens"
    assert would.tokens_per_second > 0
    tiny.harvest(ci_threshold=THRESHOLD)
    stats = load_token_stats(tiny.key)
    assert stats is not None
    assert stats.component_keys == KEYS
    examples = activation_examples(tiny.key, KEYS[0], 3)
    assert examples is not None
    assert len(examples) == 3


def test_a_dictionary_that_changed_is_refused_by_name(tiny: TinyHarvest, run: Path):
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    with (run / "model_7.pth").open("ab") as file:
        file.write(b"\0")
    assert "model_7.pth" in sentence(tiny.stage("harvest", shard="00"))
