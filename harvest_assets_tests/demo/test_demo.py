"""The built-in run: what is shipped, what is laid out, and what the demo shows of it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from harvest_assets.demo.built_in import RUN, lay_out_demo
from harvest_assets.loaders import load_token_stats
from harvest_assets.printed.component import print_informative_components
from harvest_assets_tests import oracle

PAGE = Path(__file__).parents[2] / "docs" / "demo.md"


def test_what_is_shipped_is_small():
    assert sum(path.stat().st_size for path in RUN.rglob("*") if path.is_file()) < 3_000_000


def test_its_page_says_how_good_it_is():
    quality = json.loads((RUN / "quality.json").read_text())
    text = PAGE.read_text(encoding="utf-8")
    for name, shown in {
        "target_loss": "{:.2f} nats",
        "ci_masked_loss": "{:.2f} nats",
        "ci_masked_kl": "{:.2f} nats",
        "weight_error": "{:.0%}",
        "l0": "{:.0f} of",
    }.items():
        assert shown.format(quality[name]) in text, name


def test_it_is_laid_out_again_with_absolute_names(out_dir: Path):
    folder = lay_out_demo()
    before = (folder / "final_config.yaml").read_text()
    assert lay_out_demo() == folder == out_dir / "demo"
    assert (folder / "final_config.yaml").read_text() == before
    for name in ("tokenizer", "docstrings", "target"):
        assert str(folder / name) in before
    (lines,) = (folder / "docstrings").iterdir()
    texts = [json.loads(line)["text"] for line in lines.read_text("utf-8").splitlines()]
    assert len(set(texts)) == len(texts) > 1000
    assert json.__doc__.strip().splitlines()[0] in "\n".join(texts)


@pytest.mark.slow
def test_the_demo_harvests_and_prints(out_dir: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))

    def demo() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harvest_assets", "demo"]
        return subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)

    done = demo()
    assert done.returncode == 0, done.stderr
    portraits = re.findall(r"^h\.\d\.\S+:\d+ +fires [\d,]+ times", done.stdout, re.MULTILINE)
    assert len(portraits) == 10
    for part in ("reads", "predicts", "fires with", "<<", "Next:", "harvest-assets ui"):
        assert part in done.stdout
    (harvest,) = (out_dir / "harvest").iterdir()
    stats = load_token_stats(harvest.name)
    assert stats is not None
    share = stats.firing_counts / stats.n_tokens
    one_token = stats.input_counts.max(dim=1).values / stats.firing_counts.clamp(min=1)
    assert (share == 0).any()  # never
    assert (share > 0.2).any()  # on many
    assert ((one_token > 0.8) & (stats.firing_counts > 20)).any()  # on one

    again = demo()
    assert again.returncode == 0, again.stderr
    assert "already harvested" in again.stdout
    assert again.stdout.partition("\nThe ten")[2] == done.stdout.partition("\nThe ten")[2]

    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="truecolor", width=100)
    print_informative_components(harvest.name, 2, console)
    assert "\x1b[" in shown.getvalue()
    assert "<<" not in shown.getvalue()


def test_informative_components_are_those_of_the_formula():
    from harvest_assets.analysis import get_informative_components
    from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage

    random = np.random.default_rng(5)
    density = np.array([0.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0])
    tokens = random.integers(0, 7, (30, 20))
    ci = (random.random((30, 20, 8)) < density) * 0.5
    ci[..., 4] = tokens == 3
    ci[..., 5] = tokens == 3  # the same once more: only the first is named
    probs = random.dirichlet(np.ones(7) * 0.2, (30, 20))
    truth = oracle.statistics(tokens, ci, probs, 1e-6)
    n = truth.total_tokens_processed

    def nats(counts, totals, c: int) -> float:
        n_c = truth.firing_counts[c]
        return sum(
            counts[c][t] / n_c * np.log(counts[c][t] * n / (n_c * totals[t]))
            for t in range(7)
            if counts[c][t] > 0
        )

    scores = {
        c: np.log(1 + truth.firing_counts[c])
        * max(
            nats(truth.input_token_counts, truth.input_token_totals, c),
            nats(truth.output_token_prob_mass, truth.output_token_prob_totals, c),
        )
        for c in range(7)
    }
    keys = [f"a:{c}" for c in range(8)]
    correlations = CorrelationStorage(
        keys, torch.tensor(truth.firing_counts), torch.tensor(truth.count_ij), n
    )
    stats = TokenStatsStorage(
        keys,
        7,
        n,
        torch.tensor(truth.input_token_counts),
        torch.tensor(truth.input_token_totals, dtype=torch.float64),
        torch.tensor(truth.output_token_prob_mass),
        torch.tensor(truth.output_token_prob_totals),
        torch.tensor(truth.firing_counts, dtype=torch.float64),
    )
    named = get_informative_components(correlations, stats, 8)
    assert named[0] == "a:4"
    assert "a:5" not in named
    assert "a:7" not in named
    values = [scores[int(key[2:])] for key in named]
    assert values == sorted(values, reverse=True)
    assert get_informative_components(correlations, stats, 2) == named[:2]
