"""The examples of `docs/notebook.md`, run as its readers would."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import harvest_assets
from harvest_assets.errors import HarvestError
from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.tiny_run import VOCAB
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest, write_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "notebook.md"
OPENING, ASKING, HARVESTING = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


def run_as_at_a_prompt(program: str, **names: Any) -> tuple[dict[str, Any], list[str]]:
    """The variables at the end, and what each expression shows."""
    shown = []
    for statement in ast.parse(program).body:
        if isinstance(statement, ast.Expr):
            code = compile(ast.Expression(statement.value), str(PAGE), "eval")
            shown.append(repr(eval(code, names)))  # noqa: S307
        else:
            exec(compile(ast.Module([statement], []), str(PAGE), "exec"), names)  # noqa: S102
    return names, shown


def test_a_harvest_is_opened(out_dir: Path, capsys: pytest.CaptureFixture[str]):
    write_harvest(out_dir / "harvest" / "s-d2ec3bfe", TEXTS, 40, 3)
    names, shown = run_as_at_a_prompt(OPENING)
    assert len(shown) == 9
    assert all(shown)
    assert names["component"].key == "h.0.mlp.c_fc:1"
    assert capsys.readouterr().out.count("<<") == 3


def test_a_model_is_asked(finished_out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    harvest = harvest_assets.open(FINISHED)
    _, shown = run_as_at_a_prompt(ASKING, harvest=harvest, component=harvest.alive[0])
    assert len(shown) == 3
    assert all(shown)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:coroutine:RuntimeWarning")
def test_a_function_is_harvested(
    tmp_path: Path,
    out_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    write_tokenizer(tmp_path / "example" / "gpt2", [f" w{i}" for i in range(VOCAB)])
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "example" / "gpt2")
    monkeypatch.chdir(tmp_path / "example")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARVEST_DEVICE", "cpu")

    async def in_a_kernel() -> tuple[dict[str, Any], list[str]]:
        return run_as_at_a_prompt(HARVESTING)

    names, shown = asyncio.run(in_a_kernel())
    printed = capfd.readouterr().err
    assert "harvesting" in printed
    assert "DEBUG" not in printed
    assert shown[-1].startswith("32 components of local/example/x-")
    harvest, seen = names["harvest"], []
    names["mlp"].c_fc.register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.inference_mode():
        names["model"](names["texts"])
    # The GELU is positive where its input is.
    np.testing.assert_array_equal(harvest.frame["firing_count"], (seen[0] > 0).sum((0, 1)))
    assert harvest.path.parent == out_dir / "harvest"
    given = {"data": names["texts"], "layers": names["layers"], "tokenizer": "./gpt2"}
    with pytest.raises(HarvestError, match="identity"):
        harvest_assets.harvest(names["neurons"], n_batches=1, **given)
