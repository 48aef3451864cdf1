"""The example of `docs/own_model.md`, run as its readers would."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from harvest_assets.cli.main import cli
from harvest_assets.data.token_rows import TokenRows
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.tiny_run import VOCAB, write_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "own_model.md"


@pytest.mark.slow
def test_the_example_is_harvested_and_counted_right(
    tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    folder = tmp_path / "example"
    folder.mkdir()
    (folder / "my_module.py").write_text(example)
    texts = [f"harvest shard {i} token layer fire row {i * i} key batch merge" for i in range(400)]
    (folder / "texts").mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "texts" / "train.parquet")
    write_tokenizer(folder / "gpt2", texts)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=8, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")

    monkeypatch.chdir(folder)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    command = ["harvest", "my_module:decomposition", "--n-batches", "3", "--batch-size", "8"]
    ran = CliRunner().invoke(cli, command)
    assert ran.exit_code == 0, ran.output
    key = parse_run("my_module.py:decomposition").name.key
    assert key.startswith("local/example/x-")
    assert key in ran.output

    (results,) = (out_dir / "harvest").iterdir()
    pointer = json.loads((results / "token_rows.json").read_text())
    tokens = TokenRows.open(out_dir / "data" / pointer["fingerprint"]).rows(0, 24)
    correlations = results / "correlations" / "component_correlations.pt"
    counts = torch.load(correlations, weights_only=True)["count_i"]
    np.testing.assert_array_equal(counts, _positive(folder / "gpt2", tokens))

    command[1] = str(folder / "my_module.py:decomposition")
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 0, again.output
    assert "opening the run" not in again.output, "it is finished"


def _positive(gpt2: Path, tokens: torch.Tensor) -> np.ndarray:
    """How often what enters each GELU is positive, as then is what leaves it."""
    model = AutoModelForCausalLM.from_pretrained(gpt2).eval()
    seen: list[torch.Tensor] = []
    for block in model.transformer.h:
        block.mlp.c_fc.register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.inference_mode():
        model(tokens)
    return torch.cat([(it > 0).sum((0, 1)) for it in seen]).numpy()
