"""A real run against what the original program wrote for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import dagster as dg
import pytest
import torch

from harvest_assets_tests.tiny_harvest import TinyHarvest

RUN = "local/spd/s-0ddd38e5"
N_EXAMPLES = 50


class Harvests:
    """Harvests of the reference run in one `SPD_OUT_DIR`, from its folder."""

    def __init__(self, reference_runs: Path, folder: Path) -> None:
        self.world = reference_runs / "world"
        self.out = folder / "out"
        (self.out / "runs").mkdir(parents=True)
        cached = self.world / "spd_out/runs/spd-s-0ddd38e5"
        (self.out / "runs" / cached.name).symlink_to(cached)
        self.env = {**os.environ, "SPD_OUT_DIR": str(self.out), "DAGSTER_HOME": str(folder / "dg")}
        self.folder = self.out / "harvest/s-0ddd38e5"

    def here(self, n_batches: int, batch_size: int, n_shards: int) -> Path:
        """Harvest in this process."""
        with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
            patch.setenv("SPD_OUT_DIR", str(self.out))
            patch.chdir(self.world)
            TinyHarvest.of(instance, RUN).all_stages(
                n_batches=n_batches,
                batch_size=batch_size,
                n_shards=n_shards,
                activation_examples_per_component=N_EXAMPLES,
            )
        return self.folder

    def by_command(self, n_batches: int, batch_size: int, n_shards: int) -> Path:
        """Harvest as people do."""
        options = ["--n_batches", n_batches, "--batch_size", batch_size, "--n_shards", n_shards]
        options += ["--activation_examples_per_component", N_EXAMPLES]
        subprocess.run(
            [sys.executable, "-m", "harvest_assets", RUN, *map(str, options)],
            env=self.env,
            cwd=self.world,
            check=True,
            timeout=280,
        )
        return self.folder


@pytest.fixture(scope="module")
def harvests(reference_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Harvests:
    return Harvests(reference_runs, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def harvested(harvests: Harvests) -> dict[str, bytes | dict]:
    """One shard, 40 batches of 16; kept, for later harvests replace the files."""
    folder = harvests.here(40, 16, 1)
    return {
        "correlations": torch.load(
            folder / "correlations/component_correlations.pt", weights_only=True
        ),
        "token_stats": torch.load(folder / "correlations/token_stats.pt", weights_only=True),
        "lines": (folder / "activation_contexts/components.jsonl").read_bytes(),
        "summary": json.loads((folder / "activation_contexts/summary.json").read_text()),
    }


@pytest.fixture(scope="module")
def expected(reference_runs: Path) -> Path:
    return reference_runs / "expected/s-0ddd38e5"


def test_integer_counts_are_the_originals(harvested: dict, expected: Path):
    for name, file in (
        ("correlations", "component_correlations.pt"),
        ("token_stats", "token_stats.pt"),
    ):
        theirs = torch.load(expected / "correlations" / file, weights_only=True)
        for key, value in theirs.items():
            ours = harvested[name][key]
            if key in ("output_counts", "output_totals"):
                torch.testing.assert_close(ours.double(), value.double(), rtol=1e-5, atol=1e-9)
            elif isinstance(value, torch.Tensor):
                assert torch.equal(ours.double(), value.double()), key
            else:
                assert ours == value, key


def test_components_agree_within_the_originals_rounding(harvested: dict, expected: Path):
    ours = {
        line["component_key"]: line for line in map(json.loads, harvested["lines"].splitlines())
    }
    lines = (expected / "activation_contexts/components.jsonl").read_text().splitlines()
    theirs = {line["component_key"]: line for line in map(json.loads, lines)}
    assert list(ours) == list(theirs)
    for key, old in theirs.items():
        new = ours[key]
        assert list(new) == list(old)
        assert new["mean_ci"] == pytest.approx(old["mean_ci"], abs=6e-4)
        assert new["mean_ci"] > 0
        for tokens, end in (("input", "top"), ("output", "top"), ("output", "bottom")):
            pairs = zip(
                new[f"{tokens}_token_pmi"][end], old[f"{tokens}_token_pmi"][end], strict=True
            )
            for (_, mine), (_, his) in pairs:
                assert mine == pytest.approx(his, abs=1e-3)
    summary = json.loads((expected / "activation_contexts/summary.json").read_text())
    assert list(harvested["summary"]) == list(summary)
    for key, entry in summary.items():
        assert harvested["summary"][key].items() >= {"layer": entry["layer"]}.items()
        assert harvested["summary"][key]["component_idx"] == entry["component_idx"]


@pytest.mark.parametrize("cut", [(40, 16, 4), (128, 5, 3)])
def test_how_the_work_is_cut_does_not_show(harvests: Harvests, harvested: dict, cut: tuple):
    folder = harvests.here(*cut)
    assert (folder / "activation_contexts/components.jsonl").read_bytes() == harvested["lines"]


@pytest.mark.slow
def test_the_command_writes_the_same(harvests: Harvests, harvested: dict):
    folder = harvests.by_command(20, 32, 2)
    assert (folder / "activation_contexts/components.jsonl").read_bytes() == harvested["lines"]


def test_the_originals_way_of_reading_works(
    harvests: Harvests, harvested: dict, monkeypatch: pytest.MonkeyPatch
):
    """Scan for the first bytes of a line, unpack into types, map the tensors."""
    assert harvested["lines"]
    monkeypatch.setenv("SPD_OUT_DIR", str(harvests.out))
    monkeypatch.chdir(harvests.world)
    key = "h.1.mlp.c_fc:17"
    prefix = f'{{"component_key": "{key}"'
    with (harvests.folder / "activation_contexts/components.jsonl").open() as file:
        (line,) = [line for line in file if line.startswith(prefix)]
    raw = json.loads(line)
    assert all(
        set(e) == {"token_ids", "ci_values", "component_acts"} for e in raw["activation_examples"]
    )

    from harvest_assets.loaders import activation_examples, load_activation_context_single

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        component = load_activation_context_single("s-0ddd38e5", key)
        examples = activation_examples("s-0ddd38e5", key, 3)
    assert component is not None
    assert [e.token_ids for e in component.activation_examples] == [
        e["token_ids"] for e in raw["activation_examples"]
    ]
    assert examples is not None
    batches = torch.load(
        harvests.world.parent / "activations/s-0ddd38e5.batches.pt", weights_only=True
    ).flatten(0, 1)
    for decoded in examples:
        middle = decoded.example.token_ids[10]
        assert int(batches[decoded.row, decoded.position]) == middle
        assert "<<" in str(decoded)
