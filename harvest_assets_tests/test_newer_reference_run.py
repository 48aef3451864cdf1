"""A real run with a global CI function, of February 2026, against the numbers of its program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.decompositions.spd.model import open_model
from harvest_assets.decompositions.spd.run_config import load_run_config
from harvest_assets_tests.sharing.harvest_db_reader import HarvestDb, last_folder, read
from harvest_assets_tests.tiny_harvest import TinyHarvest

RUN = "local/spd/s-5d000001"
CACHED = ("runs/spd-s-5d000001", "pretrain_cache/spd-t-5d00aaaa")
N_BATCHES, BATCH, N_CTX, N_COMPONENTS = 40, 16, 64, 100


@pytest.fixture(scope="module")
def harvested(reference_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run, harvested in two shards."""
    folder = tmp_path_factory.mktemp("newer")
    for name in CACHED:
        link = folder / "out" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(reference_runs / "world/spd_out" / name)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(folder / "out"))
        patch.chdir(reference_runs / "world")
        TinyHarvest.of(instance, RUN).all_stages(
            n_batches=N_BATCHES,
            batch_size=BATCH,
            n_shards=2,
            activation_examples_per_component=20,
        )
    return folder / "out/harvest/s-5d000001"


@pytest.fixture(scope="module")
def exported(harvested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harvest in the form that its own program writes."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(harvested.parent.parent))
        command = ["export", harvested.name, str(folder), "--format", "harvest-db"]
        done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    return last_folder(folder)


@pytest.fixture
def genuine(reference_runs: Path) -> Path:
    return last_folder(reference_runs / "harvest_db/s-5d000001")


@pytest.fixture
def opened(reference_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    world = reference_runs / "world"
    monkeypatch.chdir(world)
    monkeypatch.setenv("SPD_OUT_DIR", str(world / "spd_out"))
    run = Path("spd_out") / CACHED[0]
    (checkpoint,) = run.glob("model_*.pth")
    config = load_run_config(run / "final_config.yaml")
    return lambda **options: open_model(config, checkpoint, "cpu", **options)


def load(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "correlations" / name, weights_only=True)


def test_counts_are_those_of_its_program(harvested: Path, reference_runs: Path):
    expected = reference_runs / "expected/s-5d000001"
    ours, theirs = (load(it, "component_correlations.pt") for it in (harvested, expected))
    assert ours["component_keys"] == theirs["component_keys"]
    assert ours["count_total"] == theirs["count_total"] == N_BATCHES * BATCH * N_CTX
    for name in ("count_i", "count_ij"):
        assert torch.equal(ours[name].long(), theirs[name].long()), name
    ours, theirs = (load(it, "token_stats.pt") for it in (harvested, expected))
    for name in ("input_counts", "input_totals", "firing_counts"):
        assert torch.equal(ours[name].double(), theirs[name].double()), name
    for name in ("output_counts", "output_totals"):
        torch.testing.assert_close(ours[name].double(), theirs[name].double(), rtol=1e-5, atol=1e-9)


def test_components_are_those_of_its_program(harvested: Path, reference_runs: Path):
    ours, theirs = (
        [json.loads(line) for line in (it / "activation_contexts/components.jsonl").open()]
        for it in (harvested, reference_runs / "expected/s-5d000001")
    )
    found = {line["component_key"]: line for line in ours}
    for line in theirs:
        mine = found[line["component_key"]]
        assert mine["mean_ci"] == pytest.approx(line["mean_ci"], rel=1e-4, abs=1e-9)
        assert len(mine["activation_examples"]) == len(line["activation_examples"])
        for tokens in ("input_token_pmi", "output_token_pmi"):
            for end in ("top", "bottom"):
                values = [[value for _, value in it[tokens][end]] for it in (mine, line)]
                assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_activations_are_those_of_its_program(opened: Any, reference_runs: Path):
    (seen,) = torch.load(reference_runs / "activations/s-5d000001.first.pt", weights_only=True)
    answer = opened()(seen["batch"].long())
    for name, found in (
        ("ci", answer.ci),
        ("subcomp_acts", answer.component_acts),
        ("probs", answer.output_probs),
    ):
        rows = len(seen[name])
        torch.testing.assert_close(found[:rows], seen[name], rtol=0, atol=1e-4)


def test_some_layers_of_a_global_function_are_a_part_of_all(opened: Any, reference_runs: Path):
    (seen,) = torch.load(reference_runs / "activations/s-5d000001.first.pt", weights_only=True)
    tokens = seen["batch"].long()[:4]
    whole, part = opened(), opened(only=["h.1.attn.v_proj", "h.0.mlp.down_proj"])
    assert part.layers == [("h.0.mlp.down_proj", 10), ("h.1.attn.v_proj", 7)]
    assert part.tokens_per_forward == whole.tokens_per_forward
    assert part.extra_bytes_per_token == whole.extra_bytes_per_token
    first, columns = 0, []
    for layer, c in whole.layers:
        if (layer, c) in part.layers:
            columns += range(first, first + c)
        first += c
    for mine, all_of_them in (
        (part(tokens).ci, whole(tokens).ci),
        (part(tokens).component_acts, whole(tokens).component_acts),
    ):
        torch.testing.assert_close(mine, all_of_them[..., columns], rtol=0, atol=1e-6)


def test_harvest_db_is_that_of_its_program(exported: Path, genuine: Path):
    ours, theirs = read(exported), read(genuine)
    assert ours.schema == theirs.schema
    assert ours.stored == theirs.stored
    assert ours.config.keys() == theirs.config.keys()
    chosen = ("activation_examples_per_component", "max_examples_per_batch_per_component")
    for name in ours.config.keys() - set(chosen):  # the harvest keeps 20 examples
        assert ours.config[name] == theirs.config[name]
    assert list(ours.components) == list(theirs.components)
    assert len(theirs.components) == N_COMPONENTS - 3
    for key, row in theirs.components.items():
        mine = ours.components[key]
        for name in ("layer", "component_idx", "firing_density"):
            assert mine[name] == row[name]
        found, expected = (it["mean_activations"]["causal_importance"] for it in (mine, row))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
        for example in (*mine["activation_examples"], *row["activation_examples"]):
            values = [example["token_ids"], example["firings"], *example["activations"].values()]
            assert len({len(it) for it in values}) == 1
            assert list(example["activations"]) == ["causal_importance", "component_activation"]
        # The program leaves the lower ends of the input lists empty.
        lists = (("input_token_pmi", "top"), ("output_token_pmi", "top"))
        for name, end in (*lists, ("output_token_pmi", "bottom")):
            found, expected = mine[name][end], row[name][end]
            assert [it[1] for it in found] == pytest.approx([it[1] for it in expected], abs=1e-3)
            for token, value in found:
                assert value == pytest.approx(dict(expected).get(token, value), abs=1e-3)


def test_count_files_are_those_of_its_program(exported: Path, genuine: Path):
    for name in ("component_correlations.pt", "token_stats.pt"):
        ours, theirs = (torch.load(it / name, weights_only=True) for it in (exported, genuine))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    ours[key].double(), value.double(), rtol=1e-4, atol=1e-6, msg=key
                )
            else:
                assert ours[key] == value


def windows(rows: np.ndarray, width: int) -> np.ndarray:
    """All windows of a width that lie in one row."""
    found = np.lib.stride_tricks.sliding_window_view(rows, width, axis=1)
    return found.reshape(-1, width)


def test_exported_examples_say_who_fired(exported: Path, reference_runs: Path):
    """Each is a window of a row, with the firings that its program saw there."""
    activations = reference_runs / "activations"
    tokens = torch.load(activations / f"{RUN[-10:]}.batches.pt", weights_only=True)
    rows = tokens.numpy().reshape(-1, N_CTX)
    packed = np.load(activations / f"{RUN[-10:]}.firings.npz")
    shape = tuple(packed["shape"])
    fired = np.unpackbits(packed["packed"])[: np.prod(shape)].reshape(len(rows), N_CTX, -1)
    flat = load(reference_runs / "expected/s-5d000001", "component_correlations.pt")
    found: HarvestDb = read(exported)
    widths = set()
    for c, key in enumerate(flat["component_keys"]):
        for example in found.components.get(key, {"activation_examples": []})[
            "activation_examples"
        ][:3]:
            width = len(example["token_ids"])
            widths.add(width)
            here = (windows(rows, width) == example["token_ids"]).all(1)
            seen = windows(fired[:, :, c], width)[here].astype(bool)
            assert (seen == example["firings"]).all(1).any()
    assert min(widths) < max(widths) == 21
