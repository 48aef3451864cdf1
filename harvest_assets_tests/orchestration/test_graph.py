"""The asset graph on a small run: what comes out equals plain loops over an independent forward."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from harvest_assets.data.token_rows import TokenRows
from harvest_assets.files.lease import hold_lease
from harvest_assets.orchestration.checks import check_counts
from harvest_assets.orchestration.run_failures import failure_of
from harvest_assets.results.firings import KeptFirings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults
from harvest_assets_tests import oracle
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence
from harvest_assets_tests.tiny_run import N_CTX, VOCAB

LAYERS = [
    ("h.0.mlp.up_proj", 12),
    ("h.1.mlp.up_proj", 12),
    ("h.1.attn.q_proj", 9),
]
BLOCKING = ("counts_are_consistent", "files_agree")
KEYS = [f"{layer}:{c}" for layer, count in LAYERS for c in range(count)]


# The names of `LlamaSimple`, and those of the same model in `transformers`
LLAMA_NAMES = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "h.": "model.layers.",
    ".attn.": ".self_attn.",
    ".rms_1": ".input_layernorm",
    ".rms_2": ".post_attention_layernorm",
}


def llama_name(name: str) -> str:
    for ours, theirs in LLAMA_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def llama_of(config: dict, state: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """The target as `transformers` has it."""
    folder = Path(config["pretrained_model_name"]).parents[1]
    sizes = yaml.safe_load((folder / "model_config.yaml").read_text())
    llama_config = LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["n_embd"],
        intermediate_size=sizes["n_intermediate"],
        num_hidden_layers=sizes["n_layer"],
        num_attention_heads=sizes["n_head"],
        num_key_value_heads=sizes["n_key_value_heads"],
        max_position_embeddings=sizes["block_size"],
    )
    target = LlamaForCausalLM(llama_config).eval()
    prefix = "target_model."
    target.load_state_dict(
        {
            llama_name(name.removeprefix(prefix)): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
    )
    return target


def independent_forward(run: Path, tokens: torch.Tensor, layers=LAYERS):
    """CI, probabilities and activations from the formulas and `transformers` alone."""
    state = torch.load(run / "model_100.pth", weights_only=True)
    config = yaml.safe_load((run / "final_config.yaml").read_text())
    target = llama_of(config, state)
    inputs = {}
    for layer, _ in layers:
        target.get_submodule(llama_name(layer)).register_forward_hook(
            lambda _module, args, _out, layer=layer: inputs.__setitem__(layer, args[0])
        )
    with torch.no_grad():
        probs = target(tokens).logits.softmax(-1)
    ci, acts = [], []
    for layer, _ in layers:
        key = layer.replace(".", "-")
        w = {n: state[f"_ci_fns.{key}.layers.{n}"] for n in ("0.W", "0.b", "2.W", "2.b")}
        hidden = torch.nn.functional.gelu(inputs[layer] @ w["0.W"] + w["0.b"])
        ci.append((hidden @ w["2.W"] + w["2.b"]).clamp(0, 1))
        u_norm = state[f"_components.{key}.U"].norm(dim=1)
        acts.append(inputs[layer] @ state[f"_components.{key}.V"] * u_norm)
    return torch.cat(ci, -1).numpy(), probs.numpy(), torch.cat(acts, -1).numpy()


def rows_of(tiny: TinyHarvest, n: int) -> torch.Tensor:
    pointer = json.loads(tiny.layout.token_rows.read_text())
    data = tiny.layout.root.parent.parent / "data" / pointer["fingerprint"]
    return TokenRows.open(data).rows(0, n)


def test_a_harvest_equals_plain_loops(tiny: TinyHarvest, tiny_run: Path):
    tiny.harvest(n_shards=2, keep_firings=-1)
    n_rows = SETTINGS["n_batches"] * SETTINGS["batch_size"]
    tokens = rows_of(tiny, n_rows)
    ci, probs, acts = independent_forward(tiny_run, tokens)
    near = np.abs(ci - 1e-6) < 1e-6
    assert not (near & (ci > 0)).any(), "a CI may fall either way"
    truth = oracle.statistics(tokens.numpy(), ci, probs, 1e-6)
    assert 0 < (truth.firing_counts == 0).sum() < len(KEYS)

    correlations = torch.load(tiny.layout.component_correlations, weights_only=True, mmap=True)
    assert correlations["component_keys"] == KEYS
    assert correlations["count_total"] == truth.total_tokens_processed
    assert correlations["count_i"].dtype == correlations["count_ij"].dtype == torch.int64
    np.testing.assert_array_equal(correlations["count_i"], truth.firing_counts)
    np.testing.assert_array_equal(correlations["count_ij"], truth.count_ij)

    stats = torch.load(tiny.layout.token_stats, weights_only=True, mmap=True)
    assert (stats["vocab_size"], stats["n_tokens"]) == (VOCAB, n_rows * N_CTX)
    assert stats["input_counts"].dtype == torch.int64
    assert stats["input_totals"].dtype == stats["firing_counts"].dtype == torch.float64
    np.testing.assert_array_equal(stats["input_counts"], truth.input_token_counts)
    np.testing.assert_array_equal(stats["input_totals"], truth.input_token_totals)
    np.testing.assert_array_equal(stats["firing_counts"], truth.firing_counts)
    np.testing.assert_allclose(stats["output_counts"], truth.output_token_prob_mass, rtol=1e-5)
    np.testing.assert_allclose(stats["output_totals"], truth.output_token_prob_totals, rtol=1e-5)

    lines = [json.loads(line) for line in tiny.layout.components.read_text().splitlines()]
    alive = [c for c in range(len(KEYS)) if truth.firing_counts[c]]
    assert [line["component_key"] for line in lines] == [KEYS[c] for c in alive]
    places = oracle_places(tiny)
    for line, c in zip(lines, alive, strict=True):
        assert line["mean_ci"] == pytest.approx(ci[..., c].mean(dtype=np.float64), rel=1e-5)
        assert len(line["activation_examples"]) == min(12, truth.firing_counts[c])
        for example, firing in zip(line["activation_examples"], places[c], strict=True):
            window = oracle.window(tokens.numpy(), ci, acts, firing, c, tokens_per_side=4)
            assert ci[firing][c] > 1e-6
            assert example["token_ids"] == window.token_ids
            assert example["ci_values"] == pytest.approx(window.ci_values, abs=1e-5)
            assert example["component_acts"] == pytest.approx(window.component_acts, abs=1e-4)
        top, bottom = oracle.token_pmi(
            truth.input_token_counts[c],
            truth.input_token_totals,
            truth.firing_counts[c],
            truth.total_tokens_processed,
            top_k=5,
            vocab_limit=VOCAB,
        )
        assert line["input_token_pmi"] == {"top": to_lists(top), "bottom": to_lists(bottom)}

    fired = [
        (*place, c)
        for place in np.ndindex(ci.shape[:2])
        for c in range(len(KEYS))
        if float(ci[(*place, c)]) > 1e-6
    ]
    kept = KeptFirings.open(tiny.layout)
    (block,) = kept.blocks(n_rows)
    columns = (block.row.tolist(), block.position.tolist(), block.component.tolist())
    assert list(zip(*columns, strict=True)) == fired
    assert (kept.n_rows, kept.n_firings, kept.row_length) == (n_rows, len(fired), N_CTX)
    np.testing.assert_allclose(block.ci, [ci[firing] for firing in fired], atol=1e-5)
    np.testing.assert_allclose(block.act, [acts[firing] for firing in fired], atol=1e-4)


def to_lists(pairs):
    return [[int(token), value] for token, value in pairs]


def oracle_places(tiny: TinyHarvest) -> dict[int, list[tuple[int, int]]]:
    table = pl.read_parquet(tiny.layout.example_positions).sort("flat_index", "rank")
    places: dict[int, list[tuple[int, int]]] = {}
    for flat, _, row, position in table.iter_rows():
        places.setdefault(flat, []).append((row, position))
    return places


def test_cuts_do_not_show(tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_KEEP", "none")  # each cut harvests all rows
    tiny.harvest(n_shards=1, keep_firings=-1)
    first = tiny.layout.components.read_bytes()
    firings = tiny.layout.firings.read_bytes()
    counts = torch.load(tiny.layout.token_stats, weights_only=True)
    for n_shards, n_batches, batch_size in ((3, 6, 8), (2, 16, 3), (1, 1, 48), (16, 12, 4)):
        tiny.harvest(n_shards=n_shards, n_batches=n_batches, batch_size=batch_size)
        assert tiny.layout.components.read_bytes() == first
        assert tiny.layout.firings.read_bytes() == firings
        again = torch.load(tiny.layout.token_stats, weights_only=True)
        assert torch.equal(again["input_counts"], counts["input_counts"])
        torch.testing.assert_close(
            again["output_totals"], counts["output_totals"], rtol=1e-12, atol=0
        )


def test_another_seed_draws_another_sample_of_the_same_counts(tiny: TinyHarvest):
    tiny.harvest()
    first = [json.loads(line) for line in tiny.layout.components.read_text().splitlines()]
    tiny.harvest(seed=5)
    second = [json.loads(line) for line in tiny.layout.components.read_text().splitlines()]
    assert [c["mean_ci"] for c in first] == [c["mean_ci"] for c in second]
    assert [c["activation_examples"] for c in first] != [c["activation_examples"] for c in second]


def test_a_dataset_that_ends_early_is_reported(tiny: TinyHarvest):
    tiny.harvest(n_batches=10**6)
    config = json.loads(tiny.layout.config.read_text())
    assert config["n_batches"] == 10**6
    rows = json.loads(tiny.layout.token_rows.read_text())["n_rows"]
    assert config["n_batches_seen"] == rows // SETTINGS["batch_size"]
    wanted = {"wandb_path", "tokenizer_name", "context_length", "ci_threshold", "seed", "n_shards"}
    assert wanted <= set(config)


def test_the_text_is_tokenized_once(tiny: TinyHarvest):
    tiny.harvest()
    (data,) = (tiny.layout.root.parent.parent / "data").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    tiny.harvest(n_shards=2, batch_size=4)
    (data,) = (tiny.layout.root.parent.parent / "data").iterdir()
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_metadata_is_worth_reading(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    shard = tiny.stage("harvest", shard="00")
    merged = tiny.stage("merge")
    (event,) = shard.get_asset_materialization_events()
    assert event.materialization.metadata["tokens per second"].value > 0
    metadata = event.materialization.metadata
    assert {"tokens", "components alive", "mean L0", "seconds", "bytes", "path"} <= set(metadata)
    assert metadata["tokens"].value == 6 * 8 * N_CTX
    for event in merged.get_asset_materialization_events():
        assert event.materialization.metadata["bytes"].value > 0
        assert Path(event.materialization.metadata["path"].path).exists()
    counts, contexts = (
        merged.asset_materializations_for_node(name)[0].metadata
        for name in ("component_correlations", "activation_contexts")
    )
    stored = torch.load(tiny.layout.component_correlations, weights_only=True)["count_i"]
    assert counts["components alive"].value == int((stored > 0).sum())
    assert counts["dead share"].value == pytest.approx(
        float((stored == 0).double().mean()), abs=1e-6
    )
    assert counts["mean L0"].value == pytest.approx(int(stored.sum()) / (6 * 8 * N_CTX), abs=1e-3)
    for chart, word in (("firing density", ">1<"), ("firings per layer", "q_proj")):
        data = counts[chart].md_str.partition("base64,")[2].removesuffix(")")
        svg = base64.b64decode(data).decode()
        assert svg.startswith("<svg")
        assert word in svg
        assert len(counts[chart].md_str) < 1000  # or the UI folds it
    assert counts["charts"].md_str.count("data:image/svg+xml") == 2
    assert f"view {tiny.layout.root.name}" in contexts["view"].md_str
    rows = contexts["top components"].records
    frame = pl.read_parquet(tiny.layout.component_index).sort("telling", descending=True)
    assert [row.data["component"] for row in rows] == frame["component_key"][: len(rows)].to_list()
    assert all(json.JSONDecoder().raw_decode(row.data["reads"])[0] for row in rows[:3])


def test_the_data_version_is_the_checkpoints_digest(tiny: TinyHarvest):
    first = tiny.stage("prepare", **SETTINGS)
    again = tiny.stage("prepare", **SETTINGS)
    versions = [
        r.asset_materializations_for_node("run_checkpoint")[0].tags["dagster/data_version"]
        for r in (first, again)
    ]
    assert versions[0] == versions[1]
    assert versions[0] == json.loads(tiny.layout.run_checkpoint.read_text())["sha256"]


def test_the_check_passes_and_sees_a_wrong_count(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_KEEP", "all")
    assert tiny.stage("prepare", **SETTINGS, n_shards=2).success
    for shard in ("00", "01"):
        assert tiny.stage("harvest", shard=shard).success
    evaluations = tiny.stage("merge").get_asset_check_evaluations()
    assert len(evaluations) == 6
    for evaluation in evaluations:
        # What is tiny is doubtful: that is said, and stops nothing.
        assert evaluation.passed or evaluation.severity == dg.AssetCheckSeverity.WARN
        assert evaluation.blocking == (evaluation.check_name in BLOCKING)
        assert evaluation.partition == tiny.key

    for name, change in (
        ("symmetric", lambda d: d["count_ij"][0, 1].add_(1)),
        ("diagonal", lambda d: d["count_ij"][0, 0].add_(1)),
        ("sum over the shards", lambda d: (d["count_i"][2].add_(1), d["count_ij"][2, 2].add_(1))),
        ("positions", lambda d: d.update(count_total=d["count_total"] + 1)),
    ):
        good = tiny.layout.component_correlations.read_bytes()
        damaged = torch.load(tiny.layout.component_correlations, weights_only=True)
        change(damaged)
        torch.save(damaged, tiny.layout.component_correlations)
        result = run_check(tiny)
        assert not result.passed
        assert name in result.description
        tiny.layout.component_correlations.write_bytes(good)


def run_check(tiny: TinyHarvest):
    return check_counts(tiny.layout, HarvestPlan.open(tiny.layout.root), ShardResults(tiny.layout))


def test_missing_and_foreign_shards_are_named(tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_KEEP", "all")
    assert tiny.stage("prepare", **SETTINGS, n_shards=3).success
    assert tiny.stage("harvest", shard="01").success
    failed = tiny.stage("merge")
    assert "00, 02" in sentence(failed)
    tiny.harvest(n_shards=2)
    before = tiny.layout.components.read_bytes()
    assert tiny.stage("prepare", **{**SETTINGS, "n_batches": 3}, n_shards=2).success
    failed = tiny.stage("merge")
    assert "Shard 00" in sentence(failed)
    assert "another plan" in sentence(failed)
    assert tiny.layout.components.read_bytes() == before


def test_the_second_asker_is_skipped(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    with hold_lease(tiny.layout.shard_lease("00"), "It"):
        second = tiny.stage("harvest", shard="00")
    assert second.success
    assert not second.get_asset_materialization_events()
    assert str(os.getpid()) in failure_of(second)
    assert tiny.stage("harvest", shard="00").get_asset_materialization_events()
    with hold_lease(tiny.layout.merge_lease, "It"):
        second = tiny.stage("merge")
    assert "The merge" in failure_of(second)
    assert not tiny.layout.components.exists()
    merged = tiny.stage("merge")
    assert merged.success
    assert failure_of(merged) is None
    names = {e.check_name for e in merged.get_asset_check_evaluations() if e.passed}
    assert names >= {"counts_are_consistent", "files_agree", "probabilities_sum_to_one"}


def test_more_batches_later_equal_all_at_once(tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch):
    tiny.harvest(n_batches=2)
    tiny.harvest(n_batches=6, n_shards=2)
    extended = tiny.layout.components.read_bytes()
    counts = torch.load(tiny.layout.component_correlations, weights_only=True)
    monkeypatch.setenv("HARVEST_KEEP", "none")
    tiny.harvest(n_batches=6, seed=1)
    tiny.harvest(n_batches=6)
    assert tiny.layout.components.read_bytes() == extended
    again = torch.load(tiny.layout.component_correlations, weights_only=True)
    assert torch.equal(again["count_ij"], counts["count_ij"])


def test_stages_ask_for_what_is_missing(tiny: TinyHarvest):
    failed = tiny.stage("harvest", shard="00")
    assert not failed.success
    assert "dagster asset materialize --select" in sentence(failed)


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"n_batches": -1}, "n_batches"),
        ({"n_shards": 17}, "n_shards"),
        ({"ci_threshold": -0.5}, "ci_threshold"),
        ({"context_length": 65}, "context_length"),
        ({"context_length": -3}, "context_length"),
        ({"batch_size": 10**9}, "batch"),
    ],
)
def test_settings_out_of_range_are_named(tiny: TinyHarvest, plan: dict, named: str):
    failed = tiny.stage("prepare", **{**SETTINGS, **plan})
    assert not failed.success
    assert named in sentence(failed)
