"""`components.jsonl`: what a line is, to the byte, and how one component is found."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harvest_assets.contexts import ExampleBlock, HarvestedComponent, write_contexts
from harvest_assets.errors import HarvestError
from harvest_assets.layout import HarvestLayout
from harvest_assets.loaders import (
    activation_examples,
    load_activation_context_single,
    load_activation_contexts_summary,
    load_components_frame,
    load_correlations,
    load_token_stats,
)
from harvest_assets.manifest import disagreements, record
from harvest_assets.pmi import top_bottom_pmi
from harvest_assets.schemas import ComponentTokenPMI
from harvest_assets.storage import TokenStatsStorage

WIDTH = 5


def block(m: int, seed: int = 0, ci: float | None = None) -> ExampleBlock:
    random = np.random.default_rng(seed)
    values = random.random((m, WIDTH), dtype=np.float32)
    if ci is not None:
        values[:] = ci
    tokens = random.integers(0, 6, (m, WIDTH), dtype=np.int32)
    tokens[:, 0] = -1
    return ExampleBlock(
        tokens,
        values,
        random.standard_normal((m, WIDTH), dtype=np.float32),
        np.arange(m, dtype=np.int64) * 10 + 2**40,
        np.arange(m, dtype=np.int32),
    )


def component(index: int, firings: int, **changes) -> HarvestedComponent:
    histogram = np.zeros(64, np.int64)
    histogram[40] = firings
    values = {
        "layer": "h.0",
        "component_idx": index,
        "firing_count": firings,
        "mean_ci": 0.0123 * index,
        "ci_histogram": histogram,
        "examples": block(min(firings, 4), index),
        "highest_ci": block(min(firings, 2), index + 50),
        "input_token_pmi": ComponentTokenPMI([(5, 1.5), (2, 0.25)], [(2, 0.25), (5, 1.5)]),
        "output_token_pmi": ComponentTokenPMI([(1, 0.5)], [(1, 0.5)]),
    }
    return HarvestedComponent(**{**values, **changes})


@pytest.fixture
def harvest(out_dir: Path, tmp_path: Path) -> HarvestLayout:
    """Five components, the second never fired, with a tokenizer of six letters."""
    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcdef")}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path / "tok")
    paths = HarvestLayout(out_dir / "harvest" / "aaaaaaaa")
    counts = [3, 0, 9, 1, 2]
    write_contexts(
        paths,
        (component(i, n) for i, n in enumerate(counts)),
        {"tokenizer_name": str(tmp_path / "tok")},
    )
    return paths


def test_a_line_is_what_readers_expect(harvest: HarvestLayout):
    lines = harvest.components.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    for line, index in zip(lines, (0, 2, 3, 4), strict=True):
        assert line.startswith(b'{"component_key": "h.0:%d", ' % index)
        assert line.endswith(b"}\n")
        value = json.loads(line)
        assert list(value) == [
            "component_key",
            "layer",
            "component_idx",
            "mean_ci",
            "activation_examples",
            "input_token_pmi",
            "output_token_pmi",
        ]
        truth = component(index, {0: 3, 2: 9, 3: 1, 4: 2}[index])
        for n, example in enumerate(value["activation_examples"]):
            assert list(example) == ["token_ids", "ci_values", "component_acts"]
            assert example["token_ids"] == truth.examples.token_ids[n].tolist()
            written = np.array(example["ci_values"], np.float32)
            assert (written == truth.examples.ci_values[n]).all()
        assert value["input_token_pmi"] == {
            "top": [[5, 1.5], [2, 0.25]],
            "bottom": [[2, 0.25], [5, 1.5]],
        }
    summary = json.loads(harvest.summary.read_text())
    assert summary["h.0:2"] == {
        "layer": "h.0",
        "component_idx": 2,
        "idx": 2,
        "mean_ci": 0.0123 * 2,
    }
    assert "h.0:1" not in summary


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(value=st.floats(min_value=2**-149, max_value=2, width=32))
def test_no_value_is_rounded(tmp_path: Path, value: float):
    paths = HarvestLayout(tmp_path)
    write_contexts(paths, [component(0, 1, examples=block(1, ci=value))], {})
    (line,) = paths.components.read_text().splitlines()
    (example,) = json.loads(line)["activation_examples"]
    assert np.float32(example["ci_values"][2]) == np.float32(value) != 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float):
    with pytest.raises(HarvestError, match=r"h\.0:0"):
        write_contexts(HarvestLayout(tmp_path), [component(0, 1, examples=block(1, ci=value))], {})


def test_one_component_is_read_alone(harvest: HarvestLayout):
    text = harvest.components.read_bytes()
    lines = text.splitlines(keepends=True)
    # Every other line is unreadable; only its length is right.
    damaged = [
        line if b'"h.0:2"' in line[:40] else b"x" * (len(line) - 1) + b"\n" for line in lines
    ]
    harvest.components.write_bytes(b"".join(damaged))
    found = load_activation_context_single("aaaaaaaa", "h.0:2")
    assert found is not None
    assert found.component_idx == 2
    assert len(found.activation_examples) == 4
    assert found.input_token_pmi.top == [(5, 1.5), (2, 0.25)]
    # By the index it never fired: nothing is scanned.
    harvest.components.write_bytes(b'{"component_key": "h.0:1", '.ljust(len(text)))
    assert load_activation_context_single("aaaaaaaa", "h.0:1") is None


def test_files_of_other_writers_are_scanned(harvest: HarvestLayout):
    new = load_activation_context_single("e/p/aaaaaaaa", "h.0:3")
    assert new is not None
    lines = [json.loads(line) for line in harvest.components.read_text().splitlines()]
    for line in lines:
        for example in line["activation_examples"]:
            del example["component_acts"]
    # Keys in another order, and an index that belongs to another file.
    other = [json.dumps(dict(reversed(line.items()))) for line in lines]
    harvest.components.write_text("\n".join(other))
    old = load_activation_context_single("aaaaaaaa", "h.0:3")
    assert old is not None
    assert old.mean_ci == new.mean_ci
    assert old.activation_examples[0].token_ids == new.activation_examples[0].token_ids
    assert old.activation_examples[0].component_acts == [0.0] * WIDTH
    harvest.component_index.unlink()
    assert load_activation_context_single("aaaaaaaa", "h.0:3") == old
    assert load_activation_context_single("aaaaaaaa", "h.0:1") is None
    harvest.components.write_text(other[0][: len(other[0]) // 2])
    assert load_activation_context_single("aaaaaaaa", "h.0:3") is None
    harvest.components.write_text("")
    assert load_activation_context_single("aaaaaaaa", "h.0:3") is None


def test_a_damaged_line_is_named(harvest: HarvestLayout):
    text = harvest.components.read_bytes()
    harvest.components.write_bytes(text.replace(b'"layer"', b'"lay\x01r"'))
    with pytest.raises(HarvestError, match=r"components\.jsonl"):
        load_activation_context_single("aaaaaaaa", "h.0:3")


def test_the_frame_has_all_components(harvest: HarvestLayout):
    frame = load_components_frame("aaaaaaaa")
    assert frame is not None
    assert frame["component_key"].to_list() == [f"h.0:{i}" for i in range(5)]
    assert frame["firing_count"].to_list() == [3, 0, 9, 1, 2]
    assert frame["ci_histogram"].list.sum().to_list() == [3, 0, 9, 1, 2]
    assert frame["offset"].is_null().to_list() == [False, True, False, False, False]
    harvest.component_index.unlink()
    frame = load_components_frame("aaaaaaaa")
    assert frame is not None
    assert frame["component_key"].to_list() == ["h.0:0", "h.0:2", "h.0:3", "h.0:4"]


def test_examples_are_decoded_and_marked(harvest: HarvestLayout):
    sample = activation_examples("aaaaaaaa", "h.0:2", 3)
    assert sample is not None
    truth = component(2, 9).examples
    for n, example in enumerate(sample):
        letters = ["abcdef"[t] if t >= 0 else "" for t in truth.token_ids[n]]
        assert example.tokens == letters
        letters[2] = f"<<{letters[2]}>>"
        assert str(example) == "".join(letters)
        assert (example.row, example.position) == (2**40 + 10 * n, n)
    highest = activation_examples("aaaaaaaa", "h.0:2", 9, "ci")
    assert highest is not None
    kept = component(2, 9).highest_ci
    assert [e.example.token_ids for e in highest] == kept.token_ids.tolist()
    assert activation_examples("aaaaaaaa", "h.0:1", 3) is None
    with pytest.raises(HarvestError, match="random"):
        activation_examples("aaaaaaaa", "h.0:2", 3, "random")
    harvest.component_index.unlink()
    by_ci = activation_examples("aaaaaaaa", "h.0:2", 9, "ci")
    assert by_ci is not None
    values = [e.example.ci_values[2] for e in by_ci]
    assert values == sorted(values, reverse=True)
    assert by_ci[0].row is None


def test_what_is_not_harvested_is_none(out_dir: Path):
    assert not out_dir.exists()
    for load in (load_activation_contexts_summary, load_correlations, load_token_stats):
        assert load("bbbbbbbb") is None
    assert load_components_frame("bbbbbbbb") is None
    assert load_activation_context_single("bbbbbbbb", "h.0:0") is None
    assert activation_examples("bbbbbbbb", "h.0:0", 3) is None
    for name in ("", "..", "a/..", "a\0b"):
        with pytest.raises(HarvestError, match="no run id"):
            load_correlations(name)


def test_a_mix_of_two_harvests_is_seen_and_said(harvest: HarvestLayout):
    harvest.correlations.mkdir()
    for path in (harvest.component_correlations, harvest.token_stats):
        path.write_bytes(b"12345")
    for path in harvest.five_files:
        record(harvest, path, "plan-a")
    assert disagreements(harvest, deep=True) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_activation_contexts_summary("aaaaaaaa")
    record(harvest, harvest.token_stats, "plan-b")
    with pytest.warns(UserWarning, match="different harvests"):
        load_activation_contexts_summary("aaaaaaaa")
    record(harvest, harvest.token_stats, "plan-a")
    harvest.token_stats.write_bytes(b"1234X")
    assert disagreements(harvest) == []
    (told,) = disagreements(harvest, deep=True)
    assert "token_stats.pt" in told
    harvest.token_stats.write_bytes(b"1")
    with pytest.warns(UserWarning, match="size"):
        load_activation_contexts_summary("aaaaaaaa")
    harvest.token_stats.unlink()
    assert "missing" in disagreements(harvest)[0]


def test_what_the_original_left_is_read(reference_runs: Path, out_dir: Path):
    old = out_dir / "harvest" / "s-0ddd38e5"
    shutil.copytree(reference_runs / "expected/s-0ddd38e5", old)
    summary = load_activation_contexts_summary("s-0ddd38e5")
    frame = load_components_frame("s-0ddd38e5")
    assert summary is not None
    assert frame is not None
    assert len(summary) == len(frame) == 284
    stats = load_token_stats("s-0ddd38e5")
    assert isinstance(stats, TokenStatsStorage)
    for key in list(summary)[::40]:
        found = load_activation_context_single("s-0ddd38e5", key)
        assert found is not None
        i = stats.component_keys.index(key)
        lists = top_bottom_pmi(
            stats.output_counts[i].numpy(),
            float(stats.firing_counts[i]),
            stats.output_totals.double().numpy(),
            stats.n_tokens,
            40,
            768,
        )
        for end in ("top", "bottom"):
            theirs = [value for _, value in getattr(found.output_token_pmi, end)]
            assert [v for _, v in getattr(lists, end)] == pytest.approx(theirs, abs=1e-3)
