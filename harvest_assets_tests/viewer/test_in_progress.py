"""What is shown of a harvest in progress is exact for the rows that have been saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.commit import publish_files
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.in_progress import HarvestInProgress
from harvest_assets.viewer.library import Library, open_harvest
from harvest_assets_tests import oracle
from harvest_assets_tests.faults.small_harvest import (
    LAYERS,
    N_CTX,
    RUN,
    VOCAB,
    Rows,
    SmallHarvest,
    Table,
)
from harvest_assets_tests.viewer.synthetic import write_tokenizer


@pytest.fixture
def small(out_dir: Path, tmp_path: Path) -> SmallHarvest:
    write_tokenizer(tmp_path / "tokenizer", [f"t{i}" for i in range(VOCAB)])
    tokenizer = (("tokenizer_name", str(tmp_path / "tokenizer")),)
    small = SmallHarvest(out_dir / "harvest" / "aaaaaaaa", config_extras=tokenizer)
    small.prepare()
    checkpoint = RunCheckpoint(
        RUN, "", "", 1, "0" * 64, LAYERS, VOCAB, None, N_CTX, str(tmp_path / "tokenizer"), VOCAB
    )
    publish_files(small.paths, checkpoint)
    return small


def interrupted(small: SmallHarvest, shard: str, rows: int) -> None:
    def enough(done: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.shard(shard, enough)


def truth_of(rows: list[int]) -> oracle.Statistics:
    tokens = Rows().tokens[rows]
    answer = Table()(tokens)
    strengths, probs = answer.firing_strengths.numpy(), answer.output_probs.numpy()
    return oracle.statistics(tokens.numpy(), strengths, probs, 1e-6)


def test_saved_states_add_up_to_what_was_seen(small: SmallHarvest):
    interrupted(small, "00", 30)
    small.shard("01")
    harvest = open_harvest(small.paths)
    assert isinstance(harvest, HarvestInProgress)
    (_, first, share), (_, second, _) = harvest.progress.shards
    assert 0 < first < share
    assert second == 48
    truth = truth_of([*range(first), *range(48, 96)])
    assert harvest.n_tokens == truth.total_tokens_processed
    assert harvest.progress.share == (first + 48) / 96
    assert harvest.firing_counts.tolist() == truth.firing_counts.tolist()
    mean_ci = truth.ci_sums / truth.total_tokens_processed
    np.testing.assert_allclose(harvest.frame["mean_ci"], mean_ci, rtol=1e-12)
    for c in range(len(harvest.frame)):
        assert harvest.together(c).tolist() == truth.count_ij[c].tolist()
        counts, totals = harvest.input_counts(c)
        assert counts.tolist() == truth.input_token_counts[c].tolist()
        assert totals.tolist() == truth.input_token_totals.tolist()
        mass, mass_totals = harvest.output_mass(c)
        np.testing.assert_allclose(mass, truth.output_token_prob_mass[c], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mass_totals, truth.output_token_prob_totals, rtol=1e-12)
        assert harvest.ci_histogram(c).sum() == truth.firing_counts[c]


def plain(examples) -> list:
    """Values as float32: a state has them with all digits, a line with the shortest."""
    return [
        (
            (e.row, e.position),
            e.token_ids,
            np.float32(e.ci_values).tolist(),
            np.float32(e.component_acts).tolist(),
        )
        for e in examples
    ]


def test_examples_are_those_of_a_harvest_of_the_same_rows(small: SmallHarvest):
    small.shard("00")
    small.shard("01")
    running = open_harvest(small.paths)
    assert isinstance(running, HarvestInProgress)
    small.merge(keep="all")
    finished = FinishedHarvest(small.paths)
    for c in range(len(running.frame)):
        assert running.example_orders == finished.example_orders == ("sample", "ci", "activation")
        for order in running.example_orders:
            assert plain(running.examples(c, order)) == plain(finished.examples(c, order))
        assert running.informative_tokens(c) == finished.informative_tokens(c)


def test_a_library_sees_what_is_saved_and_what_is_merged(small: SmallHarvest):
    library = Library()
    before = library.get("aaaaaaaa")
    assert before.n_tokens == 0
    assert before.examples(0, "sample") == []
    version = library.version("aaaaaaaa")
    interrupted(small, "00", 20)
    assert library.version("aaaaaaaa") != version
    saved = library.get("aaaaaaaa")
    assert 0 < saved.n_tokens < 96 * N_CTX
    assert library.get("aaaaaaaa") is saved
    small.shard("00")
    small.shard("01")
    small.merge()
    merged = library.get("aaaaaaaa")
    assert isinstance(merged, FinishedHarvest)
    assert merged.progress is None
    assert merged.firing_counts.tolist() == truth_of(list(range(96))).firing_counts.tolist()


def test_a_page_shows_no_number_before_the_first_save(small: SmallHarvest):
    client = TestClient(make_app(Library(), "aaaaaaaa"), base_url="http://127.0.0.1:3100")
    layer, c = LAYERS[0]
    addresses = ["/run/aaaaaaaa", f"/run/aaaaaaaa/component/{layer}:{c - 1}"]
    for address in addresses:
        page = client.get(address).text
        assert "nothing has been saved yet" in page
        assert "never fired" not in page
        assert "<dl" not in page.split("<dialog")[0]
    interrupted(small, "00", 20)
    for address in addresses:
        page = client.get(address).text
        assert "nothing has been saved yet" not in page
        assert "<dl" in page.split("<dialog")[0]


def test_an_extension_is_shown_with_what_was_merged_before(small: SmallHarvest):
    half = SmallHarvest(small.root, n_batches=6, config_extras=small.config_extras)
    half.prepare()
    for shard in ("00", "01"):
        half.shard(shard)
    half.merge()
    assert isinstance(open_harvest(small.paths), FinishedHarvest)
    small.prepare()  # twelve batches again: six of them are merged already
    assert open_harvest(small.paths).progress.rows == 48
    interrupted(small, "00", 10)
    harvest = open_harvest(small.paths)
    assert 48 < harvest.progress.rows < 72
    truth = truth_of(list(range(harvest.progress.rows)))
    assert harvest.firing_counts.tolist() == truth.firing_counts.tolist()


def test_missing_input_is_reported(out_dir: Path):
    library = Library()
    with pytest.raises(HarvestError, match="has not been harvested"):
        library.get("nowhere")
    (out_dir / "harvest" / "empty").mkdir(parents=True)
    with pytest.raises(HarvestError, match="neither results nor a plan"):
        library.get("empty")
    with pytest.raises(HarvestError, match="has not been harvested"):
        library.get("../..")
