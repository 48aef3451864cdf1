"""A synthetic harvest of any size, written block by block: what the files hold need not add up.

`python -m harvest_assets_tests.viewer.synthetic FOLDER --components 40000 --vocabulary 2048
--examples 400` writes one into `FOLDER/harvest/synthetic`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.results.contexts import HarvestedComponent, write_contexts
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.merge import scratch
from harvest_assets.schemas import ComponentTokenPMI

N_TOKENS = 50_000_000
WINDOW = 21
LAYERS = 20


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    """A tokenizer that gives token i back as the text i, whatever that is."""
    words = Tokenizer(
        models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=texts[0])
    )
    words.decoder = decoders.Fuse()  # else decoding puts a space between two tokens
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def write_harvest(
    root: Path, texts: Sequence[str], n_components: int, n_examples: int, seed: int = 0
) -> HarvestLayout:
    """All files of a harvest with these token texts; every eleventh component never fired."""
    paths = HarvestLayout(root)
    write_tokenizer(root / "tokenizer", texts)
    random = np.random.default_rng(seed)
    firings = (N_TOKENS * 10 ** random.uniform(-6, -0.3, n_components)).astype(np.int64)
    firings[::11] = 0
    per_layer = -(-n_components // LAYERS)
    places = [(f"h.{i // per_layer}.mlp.c_fc", i % per_layer) for i in range(n_components)]
    config = {
        "wandb_path": f"wandb:local/synthetic/runs/{root.name}",
        "tokenizer_name": str(root / "tokenizer"),
        "n_tokens": N_TOKENS,
    }
    write_contexts(paths, _components(places, firings, len(texts), n_examples, random), config)
    _write_counts(paths, [f"{layer}:{i}" for layer, i in places], firings, len(texts))
    return paths


def _components(
    places: list[tuple[str, int]],
    firings: np.ndarray,
    vocabulary: int,
    n_examples: int,
    random: np.random.Generator,
) -> Iterator[HarvestedComponent]:
    for (layer, index), count in zip(places, firings.tolist(), strict=True):
        tokens = random.integers(0, vocabulary, 10).tolist()
        scores = np.round(np.sort(random.uniform(0, 9, 10))[::-1], 7).tolist()
        pmi = ComponentTokenPMI(
            list(zip(tokens, scores, strict=True)),
            list(zip(tokens[::-1], scores[::-1], strict=True)),
        )
        histogram = np.zeros(64, np.int64)
        if count:
            histogram[20:60] = random.multinomial(count, np.full(40, 1 / 40))
        yield HarvestedComponent(
            layer,
            index,
            count,
            float(f"{count / N_TOKENS * random.uniform(0.01, 1):.7g}"),
            histogram,
            _examples(min(n_examples, count), vocabulary, random),
            _examples(min(20, count), vocabulary, random),
            pmi,
            pmi,
            float(f"{random.uniform(0, 40):.7g}"),
            tokens[:5],
            tokens[5:],
            _examples(min(20, count), vocabulary, np.random.default_rng(index)),
        )


def _examples(m: int, vocabulary: int, random: np.random.Generator) -> ExampleTable:
    ci = random.random((m, WINDOW), dtype=np.float32)
    ci[ci < 0.7] = 0
    tokens = random.integers(0, vocabulary, (m, WINDOW), dtype=np.int32)
    tokens[:1, :4] = -1
    acts = random.standard_normal((m, WINDOW), dtype=np.float32)
    rows, positions = random.integers(0, 10**6, m), np.full(m, 9, np.int32)
    columns = (np.zeros(m, np.int64), np.arange(m), rows, positions, tokens, ci, acts)
    return ExampleTable(*map(torch.from_numpy, columns))


def _write_counts(paths: HarvestLayout, keys: list[str], firings: np.ndarray, v: int) -> None:
    paths.correlations.mkdir(parents=True)
    n, random = len(keys), np.random.default_rng(1)
    counts = torch.from_numpy(firings)
    place = paths.correlations
    with scratch(place / "ij.scratch", (n, n), torch.int64) as together:
        for i in range(n):
            others = random.integers(0, n, 200)
            together[i, others] = torch.minimum(counts[i], counts[others]) // 3
            together[i, i] = counts[i]
        CorrelationStorage(keys, counts, together, N_TOKENS).save(paths.component_correlations)
    with (
        scratch(place / "in.scratch", (n, v), torch.int64) as inputs,
        scratch(place / "out.scratch", (n, v), torch.float32) as outputs,
    ):
        for i in range(n):
            shares = random.random(v, dtype=np.float32) ** 8
            inputs[i] = torch.from_numpy((shares * firings[i] / 50).astype(np.int64))
            outputs[i] = torch.from_numpy(shares[::-1] * firings[i] / 50)
        TokenStatsStorage(
            keys,
            v,
            N_TOKENS,
            inputs,
            torch.full((v,), N_TOKENS / v, dtype=torch.float64),
            outputs,
            torch.full((v,), N_TOKENS / v, dtype=torch.float64),
            counts.double(),
        ).save(paths.token_stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--components", type=int, default=40_000)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--examples", type=int, default=400)
    options = parser.parse_args()
    started = time.monotonic()
    words = [f" word{i}" if i % 3 else f"part{i}" for i in range(options.vocabulary)]
    root = options.folder / "harvest" / "synthetic"
    paths = write_harvest(root, words, options.components, options.examples)
    files = [path for path in paths.root.rglob("*") if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in files}
    print(json.dumps(sizes, indent=1), f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
