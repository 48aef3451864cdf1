"""Harvests of extreme sizes: every page and table opens, and counts are exact."""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harvest_assets.loaders import load_components_frame
from harvest_assets.printed.component import print_informative_components
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests import oracle
from harvest_assets_tests.orchestration.test_graph import LAYERS, independent_forward, rows_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

State = dict[str, torch.Tensor]
CHECKPOINT = "model_100.pth"
THRESHOLD = 1e-6
ONE = [("h.0.mlp.up_proj", 1)]


def bias_of_all(value: float) -> Callable[[Path], None]:
    """Every component's CI is far above 1, or far below 0."""

    def change(run: Path) -> None:
        state = torch.load(run / CHECKPOINT, weights_only=True)
        for name in state:
            if name.endswith("layers.2.b"):
                state[name] = torch.full_like(state[name], value)
        torch.save(state, run / CHECKPOINT)

    return change


def one_component(run: Path) -> None:
    state = torch.load(run / CHECKPOINT, weights_only=True)
    kept: State = {k: v for k, v in state.items() if k.startswith("target")}
    for name, value in state.items():
        if "h-0-mlp-up_proj" in name:
            first = {
                ".U": value[:1],
                ".V": value[..., :1],
                ".2.W": value[..., :1],
                ".2.b": value[:1],
            }
            end = next((end for end in first if name.endswith(end)), None)
            kept[name] = (first[end] if end else value).clone()
    torch.save(kept, run / CHECKPOINT)
    change_config(run, module_info=[{"module_pattern": ONE[0][0], "C": 1}])


def one_token(run: Path) -> None:
    """A vocabulary of one: every text is the unknown token."""
    config = yaml.safe_load((run / "final_config.yaml").read_text())
    target = Path(config["pretrained_model_name"]).parents[1] / "model_config.yaml"
    target.write_text(yaml.safe_dump(yaml.safe_load(target.read_text()) | {"vocab_size": 1}))
    state = torch.load(run / CHECKPOINT, weights_only=True)
    for name in ("wte.weight", "lm_head.weight"):
        state[f"target_model.{name}"] = state[f"target_model.{name}"][:1].clone()
    torch.save(state, run / CHECKPOINT)
    only = Tokenizer(models.WordLevel({"<b>&": 0}, unk_token="<b>&"))
    only.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=only, unk_token="<b>&", eos_token="<b>&")
    shutil.rmtree(config["tokenizer_name"])
    fast.save_pretrained(config["tokenizer_name"])


def change_config(run: Path, **changes: Any) -> None:
    path = run / "final_config.yaml"
    config = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump(config))


@dataclass(frozen=True)
class Extreme:
    change: Callable[[Path], None] | None = None
    n_shards: int = 1
    layers: list[tuple[str, int]] = field(default_factory=lambda: LAYERS)
    vocab: int = 96
    settings: dict[str, Any] = field(default_factory=dict)


EXTREMES = {
    "no component fires": Extreme(bias_of_all(-1e6), 2),
    "all components fire everywhere": Extreme(bias_of_all(1e6), 2),
    "one component": Extreme(one_component, layers=ONE),
    "one component that never fires": Extreme(
        lambda run: (one_component(run), bias_of_all(-1e6)(run)), layers=ONE
    ),
    "one token": Extreme(one_token, vocab=1),
    "one token, one component": Extreme(
        lambda run: (one_token(run), one_component(run)), layers=ONE, vocab=1
    ),
    "rows of one token": Extreme(settings={"context_length": 1}),
    "rows shorter than the window": Extreme(
        settings={"context_length": 2, "activation_context_tokens_per_side": 10}
    ),
    "a window of the firing alone": Extreme(settings={"activation_context_tokens_per_side": 0}),
    "no examples": Extreme(settings={"activation_examples_per_component": 0}),
    "one example": Extreme(n_shards=3, settings={"activation_examples_per_component": 1}),
    "no token listed": Extreme(settings={"pmi_token_top_k": 0}),
    "one row": Extreme(n_shards=16, settings={"n_batches": 1, "batch_size": 1}),
    "more shards than batches": Extreme(n_shards=16, settings={"n_batches": 3, "batch_size": 2}),
    "a threshold that nothing passes": Extreme(settings={"ci_threshold": 2.0}),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_it_is_harvested_and_shown(tmp_path: Path, out_dir: Path, name: str):  # noqa: ARG001
    extreme = EXTREMES[name]
    run = write_world(tmp_path / "world", n_texts=60)
    if extreme.change:
        extreme.change(run)
    settings = {**SETTINGS, "ci_threshold": THRESHOLD, **extreme.settings}
    with dg.DagsterInstance.ephemeral() as instance, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        harvest = TinyHarvest.of(instance, run)
        harvest.harvest(**settings, n_shards=extreme.n_shards)
        check_counts(harvest, run, extreme, settings)
        check_what_is_shown(harvest)
        assert problems_of(harvest.layout, lambda _what: None) == []


def check_counts(harvest: TinyHarvest, run: Path, extreme: Extreme, settings) -> None:
    data = harvest.layout.root.parent.parent / "data"
    (manifest,) = data.glob("*/rows.json")
    n_there = json.loads(manifest.read_text())["n_rows"]
    tokens = rows_of(harvest, min(n_there, settings["n_batches"] * settings["batch_size"]))
    ci, probs, _ = independent_forward(run, tokens, extreme.layers)
    truth = oracle.statistics(tokens.numpy(), ci, probs, settings["ci_threshold"])
    counts = torch.load(harvest.layout.component_correlations, weights_only=True)
    np.testing.assert_array_equal(counts["count_i"], truth.firing_counts)
    np.testing.assert_array_equal(counts["count_ij"], truth.count_ij)
    assert counts["count_total"] == tokens.numel()
    stats = torch.load(harvest.layout.token_stats, weights_only=True)
    assert stats["vocab_size"] == extreme.vocab
    np.testing.assert_array_equal(stats["input_counts"], truth.input_token_counts)
    np.testing.assert_allclose(stats["output_totals"], truth.output_token_prob_totals, rtol=1e-5)
    lines = [json.loads(line) for line in harvest.layout.components.read_text().splitlines()]
    wanted = settings["activation_examples_per_component"]
    examples = [min(wanted, int(n)) for n in truth.firing_counts if n]
    assert [len(line["activation_examples"]) for line in lines] == examples
    side = settings["activation_context_tokens_per_side"]
    for line in lines:
        for example in line["activation_examples"]:
            assert len(example["token_ids"]) == 2 * side + 1
            assert example["ci_values"][side] > settings["ci_threshold"]


def check_what_is_shown(harvest: TinyHarvest) -> None:
    name = harvest.layout.root.name
    frame = load_components_frame(name)
    assert frame is not None
    output = io.StringIO()
    print_informative_components(name, 10, Console(file=output, width=100))
    client = TestClient(make_app(Library(), name), base_url="http://127.0.0.1:3100")
    keys = list(frame["component_key"])
    pages = [
        f"/run/{name}",
        f"/run/{name}?dead=1&sort=reads",
        f"/run/{name}/export.html?key={keys[0]}",
    ]
    pages += [f"/run/{name}/component/{key}" for key in (keys[0], keys[-1])]
    pages += [f"/compare?run_a={name}&a={keys[0]}&run_b={name}&b={keys[-1]}"]
    for page in pages:
        answer = client.get(page)
        assert answer.status_code == 200, (page, answer.text[-500:])
        output.write(answer.text)
    assert not re.search(r"\b(nan|inf)\b", output.getvalue(), re.IGNORECASE)
