"""`components.jsonl`: what a line is, to the byte, and how one component is found."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.loaders import (
    activation_examples,
    load_activation_context_single,
    load_activation_contexts_summary,
    load_components_frame,
    load_correlations,
    load_token_stats,
)
from harvest_assets.results.component_index import ComponentIndex
from harvest_assets.results.components_jsonl import read_component
from harvest_assets.results.contexts import HarvestedComponent, write_contexts
from harvest_assets.results.examples import StoredExamples
from harvest_assets.schemas import ActivationExample, ComponentTokenPMI, LocatedExample

WIDTH = 5


def table(
    tokens: np.ndarray, ci: np.ndarray, acts: np.ndarray, rows: np.ndarray, positions: np.ndarray
) -> ExampleTable:
    component = np.zeros(len(rows), np.int64)
    columns = (component, np.arange(len(rows)), rows, positions, tokens, ci, acts)
    return ExampleTable(*map(torch.from_numpy, columns))


def block(m: int, seed: int = 0, ci: float | None = None) -> ExampleTable:
    random = np.random.default_rng(seed)
    values = random.random((m, WIDTH), dtype=np.float32)
    if ci is not None:
        values[:] = ci
    tokens = random.integers(0, 6, (m, WIDTH), dtype=np.int32)
    tokens[:, 0] = -1
    return table(
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
        "highest_activation": block(min(firings, 2), index + 90),
        "input_token_pmi": ComponentTokenPMI([(5, 1.5), (2, 0.25)], [(2, 0.25), (5, 1.5)]),
        "output_token_pmi": ComponentTokenPMI([(1, 0.5)], [(1, 0.5)]),
    }
    return HarvestedComponent(**{**values, **changes})


@pytest.fixture
def harvest(out_dir: Path, tmp_path: Path) -> HarvestLayout:
    """Five components, the second never fired, with a tokenizer of six letters."""
    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcdef")}, unk_token="a"))
    letters.decoder = decoders.Fuse()  # else decoding puts a space between two letters
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


def lists(score: float) -> ComponentTokenPMI:
    return ComponentTokenPMI([(1, score)], [(1, score)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "spoiled",
    [
        lambda value: {"examples": block(1, ci=value)},
        lambda value: {"highest_ci": block(1, ci=value)},
        lambda value: {"highest_activation": block(1, ci=value)},
        lambda value: {"mean_ci": value},
        lambda value: {"input_token_pmi": lists(value)},
        lambda value: {"output_token_pmi": lists(-value)},
    ],
)
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, spoiled):
    with pytest.raises(HarvestError, match=r"h\.0:0"):
        write_contexts(HarvestLayout(tmp_path), [component(0, 1, **spoiled(value))], {})


def arrays(dtype, shape, elements):
    return st.lists(elements, min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda values: np.array(values, dtype).reshape(shape)
    )


@st.composite
def blocks(draw, width: int) -> ExampleTable:
    m = draw(st.integers(0, 3))
    reals = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return table(
        draw(arrays(np.int32, (m, width), st.integers(-1, 2**31 - 1))),
        draw(arrays(np.float32, (m, width), reals)),
        np.asfortranarray(draw(arrays(np.float32, (m, width), reals))),
        draw(arrays(np.int64, (m,), st.integers(0, 2**62))),
        draw(arrays(np.int32, (m,), st.integers(0, 2**31 - 1))),
    )


@st.composite
def harvests(draw) -> list[HarvestedComponent]:
    width = draw(st.sampled_from([1, 3, 5]))
    name = st.text('ab.é"\\ ', min_size=1, max_size=6)
    newer = draw(st.booleans())
    return [
        component(
            index,
            draw(st.integers(0, 2**40)),
            layer=layer,
            mean_ci=draw(st.floats(0, 2)),
            examples=draw(blocks(width)),
            highest_ci=draw(blocks(width)),
            highest_activation=draw(blocks(width)) if newer else None,
            input_token_pmi=lists(draw(st.floats(-30, 30))),
        )
        for layer in draw(st.lists(name, min_size=1, max_size=3, unique=True))
        for index in range(draw(st.integers(1, 3)))
    ]


def examples_of(block: ExampleTable) -> list[LocatedExample]:
    """Values are read as the shortest digits of the float32 that was written."""

    def shortest(values: torch.Tensor) -> list[float]:
        return [float(str(x)) for x in values.numpy()]

    return [
        LocatedExample(tokens.tolist(), shortest(ci), shortest(acts), int(row), int(position))
        for _, _, row, position, tokens, ci, acts in zip(*block, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(components=harvests())
def test_what_is_written_is_read(components: list[HarvestedComponent]):
    with tempfile.TemporaryDirectory() as folder:
        paths = HarvestLayout(Path(folder))
        write_contexts(paths, iter(components), {})
        by_index = [read_component(paths, c.key) for c in components]
        for truth, found in zip(components, by_index, strict=True):
            if truth.firing_count == 0:
                assert found is None
                continue
            assert found is not None
            assert (found.component_key, found.layer) == (truth.key, truth.layer)
            assert (found.component_idx, found.mean_ci) == (truth.component_idx, truth.mean_ci)
            assert found.input_token_pmi == truth.input_token_pmi
            stored = StoredExamples(paths, ComponentIndex.open(paths))
            sample = stored.of(truth.key, "sample")
            assert sample == examples_of(truth.examples)
            plain = [ActivationExample(e.token_ids, e.ci_values, e.component_acts) for e in sample]
            assert found.activation_examples == plain
            for order, table in (
                ("ci", truth.highest_ci),
                ("activation", truth.highest_activation),
            ):
                found_there = stored.of(truth.key, order)
                if table is not None and len(table.row):
                    assert found_there == examples_of(table)
                else:  # the sample is sorted
                    assert sorted(map(str, found_there)) == sorted(map(str, sample))
            assert stored.has_highest_activation == (truth.highest_activation is not None)
        paths.component_index.unlink()
        assert [read_component(paths, c.key) for c in components] == by_index


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


def test_a_damaged_index_is_as_if_there_were_none(harvest: HarvestLayout):
    whole = load_activation_context_single("aaaaaaaa", "h.0:3")
    frame = load_components_frame("aaaaaaaa")
    assert frame is not None
    good = harvest.component_index.read_bytes()
    harvest.component_index.unlink()
    from_the_summary = load_components_frame("aaaaaaaa")
    random = np.random.default_rng(0)
    for content in (b"", good[:-9], b"PAR1", bytes(len(good)), b"hello"):
        harvest.component_index.write_bytes(content)
        assert load_activation_context_single("aaaaaaaa", "h.0:3") == whole
    for _ in range(100):
        spoiled = bytearray(good)
        for place in random.integers(0, len(good), 3):
            spoiled[place] ^= random.integers(1, 256)
        harvest.component_index.write_bytes(spoiled)
        assert load_activation_context_single("aaaaaaaa", "h.0:3") == whole
        with suppress(HarvestError):
            read = load_components_frame("aaaaaaaa")
            assert read is not None
            assert read.equals(frame if "offset" in read.columns else from_the_summary)


def test_an_index_of_other_lines_of_the_same_size_is_not_believed(harvest: HarvestLayout):
    keys = ["h.0:0", "h.0:2", "h.0:3", "h.0:4"]
    before = [load_activation_context_single("aaaaaaaa", key) for key in keys]
    lines = harvest.components.read_bytes().splitlines(keepends=True)
    harvest.components.write_bytes(b"".join(reversed(lines)))
    assert [load_activation_context_single("aaaaaaaa", key) for key in keys] == before


def test_tables_of_another_harvest_are_not_believed(harvest: HarvestLayout, tmp_path: Path):
    other = HarvestLayout(tmp_path / "other")
    write_contexts(other, [component(i, 9, mean_ci=0.5) for i in range(5)], {})
    shutil.copy(other.example_positions, harvest.example_positions)
    shutil.copy(other.highest_ci_examples, harvest.highest_ci_examples)
    sample = activation_examples("aaaaaaaa", "h.0:2", 9)
    by_ci = activation_examples("aaaaaaaa", "h.0:2", 9, "ci")
    assert sample is not None
    assert by_ci is not None
    assert {(e.row, e.position) for e in sample} == {(None, None)}
    assert sorted(map(str, by_ci)) == sorted(map(str, sample))
    shutil.copy(other.component_index, harvest.component_index)
    frame = load_components_frame("aaaaaaaa")
    assert frame is not None
    assert frame["component_key"].to_list() == ["h.0:0", "h.0:2", "h.0:3", "h.0:4"]


def test_a_cut_line_is_an_error_and_not_a_component_that_never_fired(harvest: HarvestLayout):
    last = harvest.components.read_bytes().splitlines(keepends=True)[-1]
    harvest.components.write_bytes(harvest.components.read_bytes()[: -len(last) // 2])
    for reordered in (False, True):
        if reordered:
            harvest.components.write_bytes(b'{"layer": "h.0", "component_key": "h.0:4", "mea')
        with pytest.raises(HarvestError, match=r"components\.jsonl"):
            load_activation_context_single("aaaaaaaa", "h.0:4")


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
    largest = activation_examples("aaaaaaaa", "h.0:2", 9, "activation")
    assert largest is not None
    assert [e.example.token_ids for e in largest] == block(2, 92).token_ids.tolist()
    assert activation_examples("aaaaaaaa", "h.0:1", 3) is None
    with pytest.raises(HarvestError, match="random"):
        activation_examples("aaaaaaaa", "h.0:2", 3, "random")
    harvest.component_index.unlink()
    by_ci = activation_examples("aaaaaaaa", "h.0:2", 9, "ci")
    assert by_ci is not None
    values = [e.example.ci_values[2] for e in by_ci]
    assert values == sorted(values, reverse=True)
    assert by_ci[0].row is None
    largest = activation_examples("aaaaaaaa", "h.0:2", 9, "activation")
    assert largest is not None
    sizes = [abs(e.example.component_acts[2]) for e in largest]
    expected = sorted(map(abs, truth.component_acts[:, 2].tolist()), reverse=True)
    assert sizes == pytest.approx(expected)


def test_what_is_not_harvested_is_none(out_dir: Path):
    assert not out_dir.exists()
    for load in (load_activation_contexts_summary, load_correlations, load_token_stats):
        assert load("bbbbbbbb") is None
    assert load_components_frame("bbbbbbbb") is None
    assert load_activation_context_single("bbbbbbbb", "h.0:0") is None
    assert activation_examples("bbbbbbbb", "h.0:0", 3) is None
    for name in ("", "..", "a/..", "a\0b"):
        with pytest.raises(HarvestError, match="not a valid run id"):
            load_correlations(name)
