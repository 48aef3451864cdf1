"""A harvest of some layers is that part of a whole one; one without co-firings lacks only those."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from starlette.testclient import TestClient

from harvest_assets.analysis import get_correlated_components, get_informative_components
from harvest_assets.errors import HarvestError
from harvest_assets.loaders import load_correlations, load_token_stats
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence

CHOSEN = ["h.1.attn.*", "h.0.mlp.up_proj"]


def lines(tiny: TinyHarvest) -> dict[str, dict]:
    read = map(json.loads, tiny.layout.components.read_text().splitlines())
    return {line["component_key"]: line for line in read}


def test_some_layers_are_a_part_of_all(tiny: TinyHarvest):
    tiny.harvest()
    name = tiny.layout.root.name
    whole, whole_tokens, all_lines = load_correlations(name), load_token_stats(name), lines(tiny)
    keys = list(whole.component_keys)
    counts, inputs = whole.count_ij.clone(), whole_tokens.input_counts.clone()
    mass = whole_tokens.output_counts.clone()
    tiny.harvest(n_shards=2, layers=[*CHOSEN, CHOSEN[0]])
    part, tokens = load_correlations(name), load_token_stats(name)
    kept = [i for i, key in enumerate(keys) if not key.startswith("h.1.mlp")]
    assert part.component_keys == [keys[i] for i in kept], "in flat order, not in that of patterns"
    assert torch.equal(part.count_ij, counts[kept][:, kept])
    assert torch.equal(tokens.input_counts, inputs[kept])
    torch.testing.assert_close(tokens.output_counts, mass[kept], rtol=1e-6, atol=0)
    for key, line in lines(tiny).items():
        mine, theirs = (
            [(e["token_ids"], e["ci_values"]) for e in it["activation_examples"]]
            for it in (line, all_lines[key])
        )
        assert line["mean_ci"] == pytest.approx(all_lines[key]["mean_ci"], rel=1e-5)
        assert len(mine) == len(theirs)
    assert json.loads(tiny.layout.config.read_text())["layers"] == sorted(CHOSEN)
    assert pl.read_parquet(tiny.layout.component_index).height == len(kept)
    assert problems_of(tiny.layout) == []


def test_a_pattern_that_matches_nothing_is_named(tiny: TinyHarvest):
    tiny.harvest()
    before = tiny.layout.plan.read_bytes()
    refused = tiny.stage("prepare", layers=["h.*.mlp.*", "h.7.*"])
    assert not refused.success
    assert "h.7.*" in sentence(refused)
    assert "h.1.attn.q_proj" in sentence(refused)
    assert tiny.layout.plan.read_bytes() == before


def test_without_cofirings(tiny: TinyHarvest):
    tiny.harvest()
    name = tiny.layout.root.name
    with_them = lines(tiny)
    tokens = load_token_stats(name).input_counts.clone()
    tiny.harvest(n_shards=2, cooccurrence=False)
    correlations, token_stats = load_correlations(name), load_token_stats(name)
    assert correlations.count_ij is None
    stored = torch.load(tiny.layout.component_correlations, weights_only=True)
    assert "count_ij" not in stored
    assert stored["cooccurrence"] is False
    assert lines(tiny) == with_them
    assert torch.equal(token_stats.input_counts, tokens)
    assert json.loads(tiny.layout.config.read_text())["cooccurrence"] is False
    assert problems_of(tiny.layout) == []
    key = next(key for key, line in with_them.items() if line["activation_examples"])
    with pytest.raises(HarvestError, match="--no-cooccurrence"):
        get_correlated_components(correlations, key, "jaccard", 3)
    assert get_informative_components(correlations, token_stats, 3)
    with TestClient(make_app(Library(), name), base_url="http://127.0.0.1") as client:
        page = client.get(f"/run/{name}/component/{key}")
        assert page.status_code == 200
        assert "--no-cooccurrence" in page.text
        other = next(k for k in with_them if k != key)
        compared = client.get(f"/compare?run={name}&a={key}&b={other}")
        assert "never fired together" not in compared.text
        assert "--no-cooccurrence" in compared.text


def test_states_with_and_without_cofirings_do_not_add_up(tiny: TinyHarvest):
    plan = {**SETTINGS, "n_shards": 2}
    assert tiny.stage("prepare", **plan).success
    assert tiny.stage("harvest", shard="00").success
    assert tiny.stage("prepare", **plan, cooccurrence=False).success
    assert tiny.stage("harvest", shard="01").success
    refused = tiny.stage("merge")
    assert not refused.success
    assert "00" in sentence(refused)
