"""`docs/format.md` and `docs/reading.md` are enough to read a harvest."""

from __future__ import annotations

import re

import dagster as dg
import numpy as np
import pytest

from harvest_assets_tests.docs.reader import Reader
from harvest_assets_tests.docs.stage import DOCS
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory):
    world = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(world / "out"))
        harvest = TinyHarvest.of(instance, write_world(world / "files"))
        harvest.harvest(n_batches=3)
        yield Reader(world / "out", harvest.layout.root.name)


def test_token_counts_are_those_of_the_rows(reader: Reader):
    n, row_length = reader.token_stats["n_tokens"], reader.rows().shape[1]
    seen = reader.rows()[: n // row_length]
    counted = np.bincount(seen.ravel(), minlength=reader.token_stats["vocab_size"])
    assert np.array_equal(reader.token_stats["input_totals"].numpy(), counted)
    assert reader.correlations["count_total"] == n == seen.size


def test_the_state_has_the_counts_of_the_results(reader: Reader):
    size = len(reader.correlations["component_keys"])
    both = np.zeros((size, size), np.int64)
    both[np.triu_indices(size)] = reader.state()["cooccurrence"]
    assert np.array_equal(reader.correlations["count_ij"].numpy(), np.triu(both, 1).T + both)
    layers = reader.json(reader.root / "run_checkpoint.json")["layers"]
    assert sum(count for _, count in layers) == size


def test_lines_tables_and_rows_agree(reader: Reader):
    rows = reader.rows()
    index = {entry["flat_index"]: entry for entry in reader.table("component_index")}
    for place in reader.table("example_positions"):
        entry = index[place["flat_index"]]
        example = reader.line(entry["offset"], entry["length"])["activation_examples"][
            place["rank"]
        ]
        middle = len(example["token_ids"]) // 2
        assert example["token_ids"][middle] == rows[place["row"], place["position"]]
    assert sum(entry["length"] is not None for entry in index.values()) == len(reader.components)


def test_pmi_follows_from_the_counts(reader: Reader):
    for component in reader.components:
        c = reader.correlations["component_keys"].index(component["component_key"])
        for token, value in component["input_token_pmi"]["top"]:
            assert value == pytest.approx(reader.input_pmi(c, token), abs=1e-7)


@pytest.mark.parametrize("page", ["index.md", "reading.md", "api/harvester.md"])
def test_the_python_of_the_pages_runs(reader: Reader, page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(reader.out_dir))
    text = (DOCS / page).read_text("utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert code
    code = re.sub(r'^run = ".*?"', f'run = "{reader.root.name}"', code, flags=re.MULTILINE)
    exec(compile(code, page, "exec"), {})  # noqa: S102
