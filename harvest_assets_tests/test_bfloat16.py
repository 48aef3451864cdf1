"""How far `--bf16` is from float32, on real runs with and without a global CI function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harvest_assets.decompositions.spd.model import open_model
from harvest_assets.decompositions.spd.run_config import load_run_config


@pytest.mark.parametrize("run_id", ["s-0ddd38e5", "s-5d000001"])
def test_causal_importances_are_near_those_of_float32(
    run_id: str, reference_runs: Path, monkeypatch: pytest.MonkeyPatch
):
    world = reference_runs / "world"
    monkeypatch.chdir(world)
    monkeypatch.setenv("SPD_OUT_DIR", str(world / "spd_out"))
    run = world / f"spd_out/runs/spd-{run_id}"
    (checkpoint,) = run.glob("model_*.pth")
    config = load_run_config(run / "final_config.yaml")
    batches = torch.load(reference_runs / f"activations/{run_id}.batches.pt", weights_only=True)
    tokens = batches[:4].flatten(0, 1).long()
    exact = open_model(config, checkpoint, "cpu")(tokens)
    rough = open_model(config, checkpoint, "cpu", bf16=True)(tokens)
    assert {it.dtype for it in rough} == {torch.float32}
    apart = (exact.ci - rough.ci).abs()
    assert apart.max() > 0
    assert apart.mean() < 5e-4
    assert (apart > 2e-2).double().mean() < 0.002
    # Layer inputs that the target computes in bfloat16 differ, and CI functions can be steep.
    assert apart.max() < 0.1
    assert (exact.output_probs - rough.output_probs).abs().max() < 0.05
