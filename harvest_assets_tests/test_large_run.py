"""The random run of the size of a real one, here in small: it opens and is sparse on new rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.large_run import Shape, write_large_run
from harvest_assets.data.data import sample_data
from harvest_assets.decompositions.registry import verify
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run

SMALL = Shape(
    n_layer=2,
    width=32,
    n_head=2,
    inner=64,
    vocab_size=500,
    n_ctx=128,
    ci_width=64,
    ci_blocks=8,
    ci_inner=256,
    ci_heads=4,
    n_rows=80,
)
SMALL = replace(SMALL, components=tuple((name, c // 8) for name, c in SMALL.components))
CALIBRATED_ROWS = 8


def test_it_is_as_sparse_on_rows_that_it_was_not_calibrated_on(tmp_path: Path):
    run = write_large_run(tmp_path / "large", SMALL)
    checkpoint = verify(fetch_run(parse_run(str(run)), None))
    rows = torch.from_numpy(sample_data(checkpoint.data_spec(None)).rows)
    ci = checkpoint.open_model("cpu")(rows[CALIBRATED_ROWS:]).ci
    share = (ci > 1e-6).float().mean()
    assert share.item() == pytest.approx(150 / 38912, rel=1 / 2)
