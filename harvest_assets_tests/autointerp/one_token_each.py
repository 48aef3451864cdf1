"""A finished harvest in which component i fires on token i and on nothing else.

Each firing is in a row of its own; the other tokens are noise. In every fourth example the row ends
at the firing or begins with it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.results.contexts import HarvestedComponent, write_contexts
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.schemas import ComponentTokenPMI
from harvest_assets_tests.viewer.synthetic import write_tokenizer

N_COMPONENTS = 8
N_EXAMPLES = 50
N_TOKENS = 100_000
WINDOW = 9
NOISE = range(N_COMPONENTS, 300)
TEXTS = [f" c{i}" for i in range(N_COMPONENTS)] + [f" n{i}" for i in NOISE]
KEYS = [f"h.{i % 2}.mlp:{i}" for i in range(N_COMPONENTS)]
FIRINGS = [50 * (i + 1) for i in range(N_COMPONENTS)]


def write_one_token_each(root: Path, texts: list[str] | None = None) -> HarvestLayout:
    """Write the harvest.

    Args:
        root: its folder.
        texts: of the tokens, at least as many as there are components.
    """
    texts = texts or TEXTS
    paths = HarvestLayout(root)
    write_tokenizer(paths.tokenizer, texts)
    random = np.random.default_rng(0)
    config = {
        "wandb_path": f"local/tests/{root.name}",
        "tokenizer_name": str(paths.tokenizer),
        "n_tokens": N_TOKENS,
        "ci_threshold": 0.5,
    }
    write_contexts(paths, (_component(i, len(texts), random) for i in range(N_COMPONENTS)), config)
    _write_counts(paths, len(texts))
    return paths


def _component(i: int, vocabulary: int, random: np.random.Generator) -> HarvestedComponent:
    layer, _, index = KEYS[i].rpartition(":")
    pmi = ComponentTokenPMI([(i, 5.0)], [(i, 5.0)])
    histogram = np.zeros(64, np.int64)
    histogram[40] = FIRINGS[i]
    examples = _examples(i, vocabulary, random)
    return HarvestedComponent(
        layer, int(index), FIRINGS[i], 0.01, histogram, examples, examples, pmi, pmi
    )


def _examples(component: int, vocabulary: int, random: np.random.Generator) -> ExampleTable:
    first_noise = min(N_COMPONENTS, vocabulary - 1)
    tokens = random.integers(first_noise, vocabulary, (N_EXAMPLES, WINDOW), dtype=np.int32)
    middle = WINDOW // 2
    tokens[:, middle] = component
    tokens[::4, :middle] = -1  # the row begins with the firing
    tokens[2::4, middle + 1 :] = -1  # the row ends with it
    second = random.integers(0, N_EXAMPLES, N_EXAMPLES // 4)
    tokens[second, middle - 2] = np.where(tokens[second, middle - 2] < 0, -1, component)
    ci = np.where(tokens == component, np.float32(0.9), np.float32(0.1))
    ci[tokens < 0] = 0
    rows = component * 1000 + np.arange(N_EXAMPLES)
    positions = np.where(np.arange(N_EXAMPLES) % 4 == 0, 0, middle).astype(np.int32)
    columns = (np.zeros(N_EXAMPLES, np.int64), np.arange(N_EXAMPLES), rows, positions)
    return ExampleTable(*map(torch.from_numpy, (*columns, tokens, ci, ci.copy())))


def _write_counts(paths: HarvestLayout, v: int) -> None:
    paths.correlations.mkdir(parents=True)
    counts = torch.tensor(FIRINGS)
    CorrelationStorage(KEYS, counts, torch.diag(counts), N_TOKENS).save(
        paths.component_correlations
    )
    occurrences = torch.full((v,), N_TOKENS / v, dtype=torch.float64)
    zeros = torch.zeros((N_COMPONENTS, v), dtype=torch.int64)
    TokenStatsStorage(
        KEYS, v, N_TOKENS, zeros, occurrences, zeros.float(), occurrences, counts.double()
    ).save(paths.token_stats)
