"""Runs of four generations, harvested, against counts by loops in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from harvest_assets.data import data
from harvest_assets_tests import four_runs
from harvest_assets_tests.data.data_oracle import group_rows, streamed
from harvest_assets_tests.four_runs import SmallRun
from harvest_assets_tests.loopback_hub import LoopbackHub
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.tiny_harvest import TinyHarvest

N_BATCHES, BATCH_SIZE = 8, 6


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def check(run: SmallRun, folder: Path, ci_threshold: float = 1e-6) -> dict:
    """Hold a harvest against the oracle; returns its `config.json`."""
    expected, ci = run.statistics(N_BATCHES * BATCH_SIZE, ci_threshold)
    alive = expected.firing_counts > 0
    assert alive.sum() > 5
    keys = [f"{layer}:{c}" for layer, n in run.layers.items() for c in range(n)]

    correlations = torch.load(folder / "correlations/component_correlations.pt", weights_only=True)
    assert correlations["component_keys"] == keys
    assert correlations["count_total"] == expected.total_tokens_processed
    assert (correlations["count_i"].numpy() == expected.firing_counts).all()
    assert (correlations["count_ij"].numpy() == expected.count_ij).all()
    stats = torch.load(folder / "correlations/token_stats.pt", weights_only=True)
    assert (stats["input_counts"].numpy() == expected.input_token_counts).all()
    assert (stats["input_totals"].numpy() == expected.input_token_totals).all()
    assert stats["vocab_size"] == four_runs.VOCAB
    np.testing.assert_allclose(stats["output_counts"], expected.output_token_prob_mass, rtol=1e-4)
    np.testing.assert_allclose(stats["output_totals"], expected.output_token_prob_totals, rtol=1e-4)

    summary = json.loads((folder / "activation_contexts/summary.json").read_text())
    assert list(summary) == [key for key, fired in zip(keys, alive, strict=True) if fired]
    means = [entry["mean_ci"] for entry in summary.values()]
    expected_means = expected.ci_sums[alive] / expected.total_tokens_processed
    np.testing.assert_allclose(means, expected_means, rtol=1e-4, atol=1e-6)
    _check_examples(run, folder, ci)
    return json.loads((folder / "activation_contexts/config.json").read_text())


def _check_examples(run: SmallRun, folder: Path, ci: np.ndarray) -> None:
    """Each example is a window of a row in which the component has these causal importances."""
    first = dict(zip(run.layers, np.cumsum([0, *run.layers.values()]), strict=False))
    windows = {tuple(row.tolist()): number for number, row in enumerate(run.rows[: len(ci)])}
    for line in (folder / "activation_contexts/components.jsonl").read_text().splitlines():
        component = json.loads(line)
        column = first[component["layer"]] + component["component_idx"]
        for example in component["activation_examples"]:
            inside = [i for i, token in enumerate(example["token_ids"]) if token >= 0]
            assert len(inside) == four_runs.N_CTX, "windows are wide enough for a whole row"
            row = windows[tuple(example["token_ids"][i] for i in inside)]
            found = [example["ci_values"][i] for i in inside]
            np.testing.assert_allclose(found, ci[row, :, column], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("write", "ci_threshold", "recorded"),
    [
        (four_runs.gpt2_with_vector_mlps, 1e-6, {"sigmoid_type": "leaky_hard"}),
        (
            four_runs.gpt2_simple_with_an_embedding_and_an_identity,
            1e-6,
            {"sigmoid_type": "upper_leaky_hard", "sampling": "binomial", "ci_noise": False},
        ),
        (four_runs.auto_model_with_linear_ci, 0.5, {"sigmoid_type": "normal"}),
    ],
)
def test_counts_are_those_of_the_loops(
    write: Callable[[Path], SmallRun],
    ci_threshold: float,
    recorded: dict,
    tmp_path: Path,
    out_dir: Path,
    instance: dg.DagsterInstance,
):
    run = write(tmp_path)
    _harvest(run, instance, ci_threshold=ci_threshold)
    (folder,) = (out_dir / "harvest").iterdir()
    config = check(run, folder, ci_threshold)
    assert config.items() >= recorded.items()


def _harvest(run: SmallRun, instance: dg.DagsterInstance, **settings) -> None:
    TinyHarvest.of(instance, run.folder).harvest(
        n_batches=N_BATCHES,
        batch_size=BATCH_SIZE,
        activation_context_tokens_per_side=four_runs.N_CTX,
        **settings,
    )


def test_counts_of_a_run_in_old_spellings(
    tmp_path: Path,
    out_dir: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
):
    run = four_runs.llama_simple_in_old_spellings(tmp_path, out_dir)
    with monkeypatch.context() as other:  # a harvest in another stream order is not reused
        other.setattr(data, "STREAM_ORDER_VERSION", 0)
        other.setattr(data, "stream_order", lambda files, *_: chain.from_iterable(files))
        _harvest(run, instance)
    _harvest(run, instance)
    (folder,) = (out_dir / "harvest").iterdir()
    check(run, folder)


def test_noise_of_training_is_added_where_asked_for(
    tmp_path: Path, out_dir: Path, instance: dg.DagsterInstance
):
    run = four_runs.gpt2_simple_with_an_embedding_and_an_identity(tmp_path)
    lines = {}
    for n_shards in (1, 3):
        _harvest(run, instance, ci_noise=True, n_shards=n_shards)
        (folder,) = (out_dir / "harvest").iterdir()
        config = json.loads((folder / "activation_contexts/config.json").read_text())
        assert config["ci_noise"] is True
        lines[n_shards] = (folder / "activation_contexts/components.jsonl").read_bytes()
    assert lines[1] == lines[3]
    with pytest.raises(AssertionError):
        check(run, folder)


HIDDEN = " that nobody may see"


@dataclass
class Elsewhere:
    """A run on W&B whose target, tokenizer and dataset are on the hub."""

    hub: LoopbackHub
    wandb: LoopbackWandb
    run: SmallRun
    folder: Path

    def python(self, *arguments: str) -> str:
        """What a Python that can reach these two servers, and starts with nothing, prints."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
        done = subprocess.run(
            [sys.executable, *arguments],
            env={
                **kept,
                **self.hub.environment(self.folder / "hf"),
                **self.wandb.environment,
                "HOME": str(self.folder),
                "SPD_OUT_DIR": str(self.folder / "out"),
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    with LoopbackHub() as hub, LoopbackWandb() as wandb:
        names = {part: f"somebody/{part}" for part in ("target", "tokenizer", "data")}
        run = four_runs.auto_model_with_linear_ci(tmp_path, names)
        for part in ("target", "tokenizer"):
            hub.add("models", names[part], tmp_path / part)
        hub.add("datasets", names["data"], tmp_path / "data")
        files = {path.name: path.read_bytes() for path in run.folder.iterdir()}
        wandb.add_run("somebody/spd/s-d2ec3bfe", files)
        for name in ("target", "tokenizer", "data", "run"):
            (tmp_path / name).rename(tmp_path / f"{name}{HIDDEN}")
        yield Elsewhere(hub, wandb, run, tmp_path)


READ = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from harvest_assets.data.data import DataSpec, TokenRows, fingerprint, write_token_rows
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run

checkpoint = RunCheckpoint.verify(fetch_run(parse_run("somebody/spd/s-d2ec3bfe")))
spec = checkpoint.config().data_spec(None)
found = {"layers": list(checkpoint.layers)}
for name, changes in {
    "whole": {},
    "part": {"train_data_split": "train[:60%]"},
    "streamed": {"streaming": True, "buffer_size": 100},
}.items():
    folder = Path(sys.argv[1], name)
    folder.mkdir(parents=True)
    write_token_rows(replace(spec, **changes), folder, None)
    rows = TokenRows.open(folder)
    found[name] = rows.rows(0, rows.n_rows)
found["fingerprint"] = fingerprint(spec, None)
torch.save(found, Path(sys.argv[1], "found.pt"))
"""


def test_a_run_is_read_from_hub_and_wandb(elsewhere: Elsewhere):
    def read(name: str) -> dict:
        folder = elsewhere.folder / name
        elsewhere.python("-c", READ, str(folder))
        return torch.load(folder / "found.pt", weights_only=True)

    first, run = read("first"), elsewhere.run
    assert dict(first["layers"]) == run.layers
    assert torch.equal(first["whole"], run.rows)
    assert 0.5 < len(first["part"]) / len(run.rows) < 0.7
    hidden = elsewhere.folder / f"data{HIDDEN}"
    files = [pq.read_table(path)["story"].to_pylist() for path in sorted(hidden.iterdir())]
    texts = streamed(files, 3, 100)
    tokenizer = AutoTokenizer.from_pretrained(elsewhere.folder / f"tokenizer{HIDDEN}")
    spec = SimpleNamespace(dataset_name="", n_ctx=four_runs.N_CTX)
    assert first["streamed"].tolist() == group_rows(texts, tokenizer, spec)
    assert len(elsewhere.wandb.downloads) == 2

    # Another commit of the dataset is other data.
    files = elsewhere.hub.repositories["datasets", "somebody/data"]
    elsewhere.hub.add("datasets", "somebody/data", {"train.parquet": files[min(files)]})
    again = read("again")
    assert len(again["whole"]) < 0.6 * len(run.rows)
    assert again["fingerprint"] != first["fingerprint"]
    assert len(elsewhere.wandb.downloads) == 2, "what is in the run cache is not asked for"


@pytest.mark.slow
def test_a_run_from_hub_and_wandb_is_harvested(elsewhere: Elsewhere):
    options = {
        "n_batches": N_BATCHES,
        "batch_size": BATCH_SIZE,
        "ci_threshold": 0.5,
        "step": 100,
        "activation_context_tokens_per_side": four_runs.N_CTX,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    elsewhere.python("-m", "harvest_assets", "somebody/spd/s-d2ec3bfe", *arguments)
    config = check(elsewhere.run, elsewhere.folder / "out/harvest/s-d2ec3bfe", 0.5)
    assert config["wandb_path"] == "wandb:somebody/spd/runs/s-d2ec3bfe"
    assert config["checkpoint"] == "model_100.pth"
    asked = "\n".join(elsewhere.hub.requests)
    for part in ("somebody/target", "somebody/tokenizer", "datasets/somebody/data"):
        assert part in asked
