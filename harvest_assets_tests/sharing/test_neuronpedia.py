"""The files for Neuronpedia, against loops over the tokens and the table that answered for them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.sharing import neuronpedia
from harvest_assets_tests.faults.small_harvest import (
    LAYERS,
    N_CTX,
    N_ROWS,
    VOCAB,
    Rows,
    SmallHarvest,
    Table,
)
from harvest_assets_tests.sharing.machine import NAME
from harvest_assets_tests.viewer.synthetic import write_tokenizer

FOLDERS = dict(LAYERS)
PER_SIDE, TOP, SAMPLED, LISTED = 3, 20, 8, 4


@pytest.fixture
def paths(out_dir: Path, tmp_path: Path) -> HarvestLayout:
    write_tokenizer(tmp_path / "tokenizer", [f"<{i}>" for i in range(VOCAB)])
    extras = (("tokenizer_name", str(tmp_path / "tokenizer")), ("dataset_name", "some/texts"))
    harvest = SmallHarvest(out_dir / "harvest" / NAME, config_extras=extras)
    harvest.run()
    return harvest.paths


def export(folder: Path) -> Result:
    command = ["export", NAME, str(folder), "--format", "neuronpedia", "--json"]
    return CliRunner().invoke(cli, command)


@pytest.mark.usefixtures("paths")
def test_each_entry_is_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neuronpedia, "_BATCH", 9)
    done = export(tmp_path / "handed")
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "handed").iterdir()
    assert {it.name for it in folder.iterdir()} == set(FOLDERS)
    found: dict[str, dict[int, Any]] = {layer: {} for layer in FOLDERS}
    for layer in FOLDERS:
        for number in range(len(list((folder / layer).glob("batch-*.json")))):
            batch = json.loads((folder / layer / f"batch-{number}.json").read_text())
            features = batch.pop("features")
            assert 0 < len(features) <= 9
            found[layer] |= {it["feature_index"]: it for it in features}
            assert batch == {
                "model_id": NAME,
                "layer": int(layer.split(".")[1]),
                "sae_set": NAME,
                "sae_id_suffix": layer,
            }
    n_components = sum(map(len, found.values()))
    result = json.loads(done.stdout)
    assert (result["components"], result["layers"]) == (n_components, 2)
    table, rows, flat = Table(), Rows().tokens.tolist(), 0
    totals = [0.0] * VOCAB
    for row in rows:
        for token in row:
            for t, p in enumerate(table.probs[token].tolist()):
                totals[t] += p
    for layer, n in FOLDERS.items():
        skipped = json.loads((folder / layer / "skipped_indexes.json").read_text())
        for index in range(n):
            ci = table.ci[:, flat].tolist()
            flat += 1
            if not any(ci[token] > 1e-6 for row in rows for token in row):
                assert index in skipped["skipped_indexes"]
                assert index not in found[layer]
                continue
            assert index not in skipped["skipped_indexes"]
            check(found[layer].pop(index), ci, rows, table, totals)
        assert not found[layer]


def check(
    entry: dict[str, Any], ci: list[float], rows: list[list[int]], table: Table, totals: list[float]
) -> None:
    """One entry against loops over all positions."""
    n_tokens = N_ROWS * N_CTX
    strengths, mass, windows = [], [0.0] * VOCAB, set()
    for row in rows:
        for position, token in enumerate(row):
            if ci[token] <= 1e-6:
                continue
            strengths.append(ci[token])
            for t, p in enumerate(table.probs[token].tolist()):
                mass[t] += p
            start = max(0, position - PER_SIDE)
            windows.add((*row[start : position + PER_SIDE + 1], position - start))
    strengths.sort(reverse=True)
    assert entry["frac_nonzero"] == len(strengths) / n_tokens
    assert (entry["n_prompts_total"], entry["n_tokens_in_prompt"]) == (N_ROWS, N_CTX)
    assert entry["dataset"] == "some/texts"
    top = [it for it in entry["activations"] if it["bin_min"] == -1]
    sample = entry["activations"][len(top) :]
    assert len(sample) == min(SAMPLED, len(strengths))
    values = [it["values"][it["qualifying_token_index"]] for it in top]
    assert values == pytest.approx(strengths[:TOP], rel=1e-6)
    for it in entry["activations"]:
        ids = [int(text.strip("<>")) for text in it["tokens"]]
        assert (*ids, it["qualifying_token_index"]) in windows
        assert it["values"] == pytest.approx([ci[token] for token in ids], rel=1e-6)
        assert it["bin_max"] == pytest.approx(strengths[0], rel=1e-6)
    assert {(it["bin_min"], it["bin_contains"]) for it in sample} == {(1e-6, 1.0)}
    check_histogram(entry, strengths)
    # The listed tokens are the first that have the PMI which the loops give.
    pmi = [math.log(m * n_tokens / len(strengths) / t) for m, t in zip(mass, totals, strict=True)]
    for end, falling in (("pos", True), ("neg", False)):
        expected = sorted(pmi, reverse=falling)[:LISTED]
        assert entry[f"{end}_values"] == pytest.approx(expected, abs=2e-4)
        tokens = [int(text.strip("<>")) for text in entry[f"{end}_str"]]
        assert [pmi[t] for t in tokens] == pytest.approx(expected, abs=2e-4)
    assert entry["logits_hist_data_bar_values"] == entry["neuron_alignment_values"] == []


def check_histogram(entry: dict[str, Any], strengths: list[float]) -> None:
    """Each firing is in the bin whose middle is nearest to it in logarithms."""
    middles = entry["freq_hist_data_bar_values"]
    assert middles == sorted(middles)
    assert (middles[0], middles[-1]) == (1e-6, 1.0)
    logs = [math.log(it) for it in middles[1:-1]]
    counts = [0] * len(middles)
    for it in strengths:
        counts[1 + min(range(len(logs)), key=lambda i: abs(logs[i] - math.log(it)))] += 1
    differences = [
        abs(a - b) for a, b in zip(counts, entry["freq_hist_data_bar_heights"], strict=True)
    ]
    assert sum(entry["freq_hist_data_bar_heights"]) == len(strengths)
    assert sum(differences) <= 0.02 * len(strengths)  # next to an edge


def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    paths: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused() -> str:
        result = export(tmp_path / "handed")
        assert result.exit_code == 1, result.output
        assert not any((tmp_path / "handed").glob("*"))
        return result.stderr

    with monkeypatch.context() as patch:
        patch.setattr(neuronpedia, "is_folder_name", lambda name: "attn" not in name)
        assert "h.1.attn" in refused()
    (tmp_path / "tokenizer").rename(tmp_path / "elsewhere")
    assert "tokenizer" in refused()
    content = bytearray(paths.highest_ci_examples.read_bytes())
    content[len(content) // 2] ^= 1
    paths.highest_ci_examples.write_bytes(content)
    assert paths.highest_ci_examples.name in refused()
    paths.manifest.unlink()
    assert "manifest.json" in refused()
