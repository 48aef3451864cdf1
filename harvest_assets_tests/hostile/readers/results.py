"""Readers of the result files."""

from __future__ import annotations

import math
import zipfile

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.loaders import tokenizer_name
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import (
    parse_component,
    read_component,
    read_summary,
    scan_lines,
)
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.examples import StoredExamples
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import Reader, put
from harvest_assets_tests.hostile.readers.run_files import archive_of


class Results(Reader):
    """The pickle of `component_correlations.pt` and `token_stats.pt`, in a whole archive."""

    def seeds(self) -> list[bytes]:
        counts = torch.arange(4).reshape(2, 2)
        keys = ["a:0", "a:1"]
        CorrelationStorage(keys, counts[0], counts, 9).save(self.folder / "c.pt")
        wide = counts.double()
        stats = (keys, 2, 9, counts, wide[0], wide.float(), wide[0], wide[0])
        TokenStatsStorage(*stats).save(self.folder / "t.pt")
        found = []
        for name in ("c.pt", "t.pt"):
            with zipfile.ZipFile(self.folder / name) as opened:
                found += [opened.read(n) for n in opened.namelist() if n.endswith("data.pkl")]
        return found

    def read(self, content: bytes) -> None:
        path = put(self.folder / "results.pt", archive_of(content))
        for kind in (CorrelationStorage, TokenStatsStorage):
            try:
                opened = kind.load(path)
            except HarvestError:
                continue
            sizes = (len(opened.component_keys), vars(opened).get("vocab_size"))
            for tensor in (t for t in vars(opened).values() if isinstance(t, torch.Tensor)):
                tensor.sum()
                assert tensor.shape[0] in sizes


class ResultConfig(OfHarvest):
    """`config.json` beside the results."""

    FILE = "activation_contexts/config.json"

    def seeds(self) -> list[bytes]:
        return [
            b'{"tokenizer_name": "a/b", "n_tokens": 9}',
            b'{"wandb_path": "wandb:a/b/runs/aaaaaaaa"}',
        ]

    def read(self, content: bytes) -> None:
        put(self.file, content)
        assert isinstance(tokenizer_name(self.paths), str)


class Summary(OfHarvest):
    """`summary.json`."""

    FILE = "activation_contexts/summary.json"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        for entry in read_summary(self.paths).values():
            assert math.isfinite(entry.mean_ci)


class Line(OfHarvest):
    """One line of `components.jsonl`."""

    FILE = "activation_contexts/components.jsonl"

    def seeds(self) -> list[bytes]:
        return self.file.read_bytes().splitlines(keepends=True)[:3]

    def read(self, content: bytes) -> None:
        component = parse_component(self.file, content)
        for example in component.activation_examples:
            lengths = {len(example.token_ids), len(example.ci_values), len(example.component_acts)}
            assert len(lengths) == 1
            assert all(type(token) is int for token in example.token_ids)
            assert all(map(math.isfinite, example.ci_values))


class Lines(OfHarvest):
    """`components.jsonl`, with and without an index beside it."""

    FILE = "activation_contexts/components.jsonl"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        read_component(self.paths, "h.0.mlp:3")
        scan_lines(self.paths)


class Index(OfHarvest):
    """`component_index.parquet`."""

    FILE = "activation_contexts/component_index.parquet"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        index = ComponentIndex.open(self.paths)
        if index is not None:
            for key in ("h.0.mlp:3", "h.1.attn:9", "no"):
                found = read_component(self.paths, key, index)
                assert found is None or found.component_key == key
        table = read_index(self.paths)
        assert table["flat_index"].to_pylist() == list(range(len(table)))


class Highest(OfHarvest):
    """`highest_ci_examples.parquet`."""

    FILE = "activation_contexts/highest_ci_examples.parquet"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        stored = StoredExamples(self.paths, ComponentIndex.open(self.paths))
        for example in stored.of("h.0.mlp:3", "ci") or ():
            assert example.row is not None
            assert example.position is not None
            assert isinstance(example.token_ids, list)
