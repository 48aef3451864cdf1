"""Firings beyond 10^10 in 10^12 tokens, from states to pages: ratios of counts stay the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from harvest_assets.analysis import (
    get_correlated_components,
    get_informative_components,
)
from harvest_assets.files.commit import publish_files
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester import HarvesterState
from harvest_assets.harvester.state_sum import StateSum
from harvest_assets.loaders import load_components_frame
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.merge import MergedContexts, MergedCorrelations, MergedTokenStats
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.small_harvest import N_CTX, N_ROWS, VOCAB, SmallHarvest
from harvest_assets_tests.viewer.synthetic import write_tokenizer

DOUBLINGS = 30


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[HarvestLayout, HarvestLayout]]:
    """The results of a small harvest, and of one of as many rows 2^30 times, all alike."""
    out_dir = tmp_path_factory.mktemp("spd_out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(out_dir))
        yield _two(out_dir)


def _two(out_dir: Path) -> tuple[HarvestLayout, HarvestLayout]:
    small = SmallHarvest(out_dir / "harvest" / "small")
    small.run("all")
    state = ShardResults(small.paths).open(small.plan).state()
    for _ in range(DOUBLINGS):
        state = HarvesterState.merge([state, state])
    paths = HarvestLayout(out_dir / "harvest" / "many")
    # Through a folder, as a shard's state goes.
    state.save(out_dir / "state")
    total = StateSum([HarvesterState.load(out_dir / "state")])
    tokenizer = out_dir / "tokenizer"
    write_tokenizer(tokenizer, [f" word{n}" for n in range(VOCAB)])
    config = json.loads(small.paths.config.read_text()) | {"tokenizer_name": str(tokenizer)}
    for value in (
        MergedCorrelations(total, "plan"),
        MergedTokenStats(total, "plan"),
        MergedContexts(total, "plan", config, 4, VOCAB),
    ):
        publish_files(paths, value)
    return small.paths, paths


def test_they_are_exact_and_ratios_stay(two: tuple[HarvestLayout, HarvestLayout]):
    small, many = two
    times = 2**DOUBLINGS
    counts, more = (CorrelationStorage.load(p.component_correlations) for p in two)
    assert int(more.count_i.max()) > 10**10
    assert more.count_total > 10**12
    assert int(more.count_i.max()) * int(more.count_i.max()) > 2**63
    for name in ("count_i", "count_ij"):
        found, wanted = getattr(more, name), getattr(counts, name)
        assert found.dtype == torch.int64
        assert found.tolist() == (wanted * times).tolist()
    assert more.count_total == counts.count_total * times
    tokens, more_tokens = (TokenStatsStorage.load(p.token_stats) for p in two)
    assert more_tokens.input_counts.tolist() == (tokens.input_counts * times).tolist()
    assert more_tokens.n_tokens == tokens.n_tokens * times
    for key in counts.component_keys:
        for metric in ("precision", "recall", "jaccard", "pmi"):
            few = get_correlated_components(counts, key, metric, 30)
            found = get_correlated_components(more, key, metric, 30)
            assert {x.component_key for x in found} == {x.component_key for x in few}
            scores = [x.score for x in few]
            assert [x.score for x in found] == pytest.approx(scores, rel=1e-12)
            assert {x.count_ij for x in found} == {x.count_ij * times for x in few}
    assert load_components_frame(many.root.name)["mean_ci"].to_list() == pytest.approx(
        load_components_frame(small.root.name)["mean_ci"].to_list(), rel=1e-6
    )
    lines = [[json.loads(line) for line in p.components.read_text().splitlines()] for p in two]
    for few, found in zip(*lines, strict=True):
        assert found["component_key"] == few["component_key"]
        for side in ("input_token_pmi", "output_token_pmi"):
            for end in ("top", "bottom"):
                assert [t for t, _ in found[side][end]] == [t for t, _ in few[side][end]]
                np.testing.assert_allclose(
                    [x for _, x in found[side][end]], [x for _, x in few[side][end]], rtol=1e-9
                )
    # A firing is as informative as before; the number of firings counts by its logarithm.
    assert set(get_informative_components(more, more_tokens, 5)) <= set(counts.component_keys)


def test_lines_are_those_of_whole_numbers(two: tuple[HarvestLayout, HarvestLayout]):
    """The PMI of input tokens and the mean CI, by Python's integers and fractions."""
    small, many = two
    state = ShardResults(small).open(HarvestPlan.open(small.root)).state()
    firings, n = state.firing_counts.tolist(), state.total_tokens_processed * 2**DOUBLINGS
    totals = state.input_token_totals.tolist()
    places = {key: i for i, key in enumerate(state.settings.component_keys)}
    lines = [json.loads(line) for line in many.components.read_text().splitlines()]
    assert len(lines) == sum(count > 0 for count in firings)
    for line in lines:
        place = places[line["component_key"]]
        n_x = firings[place] * 2**DOUBLINGS
        mean = float(state.ci_sums[place]) * 2**DOUBLINGS / n
        assert line["mean_ci"] == pytest.approx(mean, rel=1e-6)
        for token, found in line["input_token_pmi"]["top"] + line["input_token_pmi"]["bottom"]:
            n_xy = int(state.input_counts[place, token]) * 2**DOUBLINGS
            n_y = totals[token] * 2**DOUBLINGS
            assert found == pytest.approx(math.log(Fraction(n_xy * n, n_x * n_y)), abs=6e-8)


def test_pages_show_them(two: tuple[HarvestLayout, HarvestLayout]):
    _, many = two
    client = TestClient(make_app(Library(), many.root.name), base_url="http://127.0.0.1:3100")
    frame = load_components_frame(many.root.name).sort("firing_count", descending=True)
    key, firings = frame["component_key"][0], frame["firing_count"][0]
    for page in ("/run/many", f"/run/many/component/{key}"):
        answer = client.get(page)
        assert answer.status_code == 200, answer.text[-500:]
        assert f"{firings:,}" in answer.text
    assert f"{2**DOUBLINGS * N_ROWS * N_CTX:,}" in client.get("/run/many").text
