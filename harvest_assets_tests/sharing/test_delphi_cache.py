"""The export for delphi, read back as delphi's loader reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from harvest_assets.cli.main import cli
from harvest_assets.data.token_rows import write_manifest, write_tokens
from harvest_assets.files.layout import data_dir
from harvest_assets.store.plan import HarvestPlan
from harvest_assets_tests.faults.small_harvest import LAYERS, N_CTX, Rows, SmallHarvest, Table
from harvest_assets_tests.sharing.machine import NAME

_N_KEPT = 90


@pytest.fixture
def harvest(out_dir: Path) -> SmallHarvest:
    rows = data_dir("f" * 32)
    rows.mkdir(parents=True)
    write_manifest(
        rows, [write_tokens(rows, [Rows().tokens.numpy()], N_CTX, None)], None, N_CTX, {}
    )
    data = {"dataset_name": "d", "dataset_split": "train", "tokenizer_name": "t", "batch_size": 8}
    harvest = SmallHarvest(
        out_dir / "harvest" / NAME, keep_firings=_N_KEPT, config_extras=tuple(data.items())
    )
    harvest.run()
    return harvest


def export(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["export", NAME, str(folder), "--format", "delphi", *options])


def by_loops() -> dict[tuple[str, int], list[tuple[int, int, float]]]:
    """Row, position and strength of each firing, by layer and latent."""
    ci, tokens = Table().ci.double().numpy(), Rows().tokens.numpy()
    found, flat = {}, 0
    for layer, n in LAYERS:
        for latent in range(n):
            found[layer, latent] = [
                (row, position, float(ci[tokens[row, position], flat]))
                for row in range(_N_KEPT)
                for position in range(N_CTX)
                if ci[tokens[row, position], flat] > 1e-6
            ]
            flat += 1
    return found


@pytest.mark.usefixtures("harvest")
def test_delphi_finds_every_firing(tmp_path: Path):
    done = export(tmp_path / "handed", "--json")
    assert done.exit_code == 0, done.output
    latents = tmp_path / "handed" / "latents"
    expected, found = by_loops(), {}
    assert json.loads(done.stdout)["firings"] == sum(map(len, expected.values()))
    assert sorted(path.name for path in latents.iterdir()) == sorted(name for name, _ in LAYERS)
    for layer, n in LAYERS:
        config = json.loads((latents / layer / "config.json").read_text())
        assert config["cache_ctx_len"] == N_CTX
        edges = sorted(
            tuple(map(int, path.stem.split("_"))) for path in (latents / layer).glob("*_*")
        )
        assert [latent for first, last in edges for latent in range(first, last + 1)] == [*range(n)]
        assert len(edges) == config["n_splits"]
        for first, last in edges:
            read = load_file(latents / layer / f"{first}_{last}.safetensors")
            assert read["locations"].dtype == np.int64
            assert (read["tokens"] == Rows().tokens[:_N_KEPT].numpy()).all()
            for (row, position, latent), value in zip(
                read["locations"].tolist(), read["activations"].tolist(), strict=True
            ):
                found.setdefault((layer, first + latent), []).append((row, position, value))
    assert found == {latent: firings for latent, firings in expected.items() if firings}
    assert sum(path.is_file() for path in latents.rglob("*")) == 2 * (5 + 1)  # nothing else is left


def test_what_cannot_be_exported_is_left_as_it_is(harvest: SmallHarvest, tmp_path: Path):
    (tmp_path / "taken" / "latents").mkdir(parents=True)
    assert "exists" in export(tmp_path / "taken").stderr
    damaged = bytearray(harvest.paths.firings.read_bytes())
    damaged[-1] ^= 1
    harvest.paths.firings.write_bytes(damaged)
    refused = export(tmp_path / "new")
    assert (refused.exit_code, "firings.safetensors" in refused.stderr) == (1, True)
    harvest.paths.firings.unlink()
    assert "--keep-firings" in export(tmp_path / "new").stderr
    assert HarvestPlan.open(harvest.root).keep_firings == _N_KEPT
    assert not (tmp_path / "new").exists()
