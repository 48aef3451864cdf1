"""The loaders, on files of the original program and on damaged or foreign ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.loaders import (
    activation_examples,
    load_activation_context_single,
    load_activation_contexts_summary,
    load_components_frame,
    load_correlations,
    load_token_stats,
)
from harvest_assets.results.pmi import top_bottom_pmi
from harvest_assets.schemas import ComponentSummary

RUN = "s-0ddd38e5"


@pytest.fixture
def original(reference_runs: Path, out_dir: Path) -> Path:
    """The original program's files, where the loaders find them."""
    (out_dir / "harvest").mkdir(parents=True)
    (out_dir / "harvest" / RUN).symlink_to(reference_runs / "expected" / RUN)
    return reference_runs / "expected" / RUN / "activation_contexts"


def test_each_component_of_the_original_is_found(original: Path):
    lines = [json.loads(line) for line in (original / "components.jsonl").open()]
    summary = load_activation_contexts_summary(RUN)
    assert summary is not None
    assert list(summary) == [line["component_key"] for line in lines]
    for line in lines[::7]:
        key = line["component_key"]
        found = load_activation_context_single(f"local/spd/{RUN}", key)
        assert found is not None
        assert summary[key] == ComponentSummary(found.layer, found.component_idx, found.mean_ci)
        assert (found.layer, found.component_idx) == (line["layer"], line["component_idx"])
        assert [e.ci_values for e in found.activation_examples] == [
            e["ci_values"] for e in line["activation_examples"]
        ]
    frame = load_components_frame(RUN)
    assert frame is not None
    assert frame["component_key"].to_list() == list(summary)


def test_pmi_from_the_originals_counts_is_the_originals(original: Path):
    stats = load_token_stats(RUN)
    correlations = load_correlations(RUN)
    assert stats is not None
    assert correlations is not None
    assert stats.component_keys == correlations.component_keys
    for line in map(json.loads, (original / "components.jsonl").open()):
        i = stats.component_keys.index(line["component_key"])
        for tokens, counts, totals, ends in (
            ("input", stats.input_counts, stats.input_totals, ["top"]),
            ("output", stats.output_counts, stats.output_totals, ["top", "bottom"]),
        ):
            ours = top_bottom_pmi(
                counts[i].numpy(),
                float(stats.firing_counts[i]),
                totals.double().numpy(),
                stats.n_tokens,
                40,
                stats.vocab_size,
            )
            for end in ends:
                theirs = [value for _, value in line[f"{tokens}_token_pmi"][end]]
                assert [v for _, v in getattr(ours, end)] == pytest.approx(theirs, abs=1e-3)


def test_the_originals_examples_are_decoded_by_the_runs_tokenizer(
    original: Path, reference_runs: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "tokenizer_name" not in json.loads((original / "config.json").read_text())
    monkeypatch.chdir(reference_runs / "world")
    with pytest.raises(HarvestError, match=r"spd-s-0ddd38e5.final_config\.yaml"):
        activation_examples(RUN, "h.0.mlp.c_fc:0", 5)
    run = reference_runs / "world/spd_out/runs/spd-s-0ddd38e5"
    (out_dir / "runs").mkdir()
    (out_dir / "runs" / run.name).symlink_to(run)
    sample = activation_examples(RUN, "h.0.mlp.c_fc:0", 5)
    assert sample is not None
    assert len(sample) == 5
    first = sample[0]
    assert first.example.token_ids[:10] == [-1] * 10
    assert first.tokens[:10] == [""] * 10
    assert str(first) == f"<<{first.tokens[10]}>>" + "".join(first.tokens[11:])
    by_ci = activation_examples(RUN, "h.0.mlp.c_fc:0", 50, "ci")
    assert by_ci is not None
    values = [e.example.ci_values[e.firing_index] for e in by_ci]
    assert len(values) == 50
    assert values == sorted(values, reverse=True)


def test_damaged_originals_are_named(original: Path, out_dir: Path):
    copied = out_dir / "harvest" / "bbbbbbbb"
    shutil.copytree(original.parent, copied, copy_function=shutil.copyfile)
    for file, load in (
        ("correlations/component_correlations.pt", load_correlations),
        ("correlations/token_stats.pt", load_token_stats),
        ("activation_contexts/summary.json", load_activation_contexts_summary),
        ("activation_contexts/summary.json", load_components_frame),
    ):
        path = copied / file
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(HarvestError, match=path.name.replace(".", r"\.")):
            load("bbbbbbbb")


def folder(out_dir: Path, name: str, **files) -> Path:
    contexts = out_dir / "harvest" / name / "activation_contexts"
    contexts.mkdir(parents=True)
    for file, content in files.items():
        (contexts / file.replace("_json", ".json")).write_text(json.dumps(content))
    return contexts


def test_summaries_that_name_the_index_idx_are_read(out_dir: Path):
    folder(out_dir, "aaaaaaaa", summary_json={"h.0:7": {"layer": "h.0", "idx": 7, "mean_ci": 1}})
    assert load_activation_contexts_summary("aaaaaaaa") == {"h.0:7": ComponentSummary("h.0", 7, 1)}
    frame = load_components_frame("aaaaaaaa")
    assert frame is not None
    assert frame.rows() == [("h.0:7", "h.0", 7, 1.0)]


@pytest.mark.parametrize("content", [[], 3, {"h.0:1": 3}, {"h.0:1": {"layer": "h.0"}}])
def test_invalid_summaries_are_refused(out_dir: Path, content):
    folder(out_dir, "aaaaaaaa", summary_json=content)
    with pytest.raises(HarvestError, match=r"summary\.json"):
        load_activation_contexts_summary("aaaaaaaa")


@pytest.mark.parametrize("name", ["", "/", ".", "..", "../", "../..", "a/..", "a\0b", "a\\b", ".x"])
def test_names_that_leave_the_folder_are_refused(out_dir: Path, name: str):
    folder(out_dir, "aaaaaaaa")
    with pytest.raises(HarvestError, match="not a valid run id"):
        load_activation_contexts_summary(name)


def test_importing_the_reading_side_is_light():
    code = (
        "import sys, harvest_assets.loaders; light = not {m for m in sys.modules} "
        "& {'torch', 'polars', 'pyarrow', 'numpy'}; "
        "import harvest_assets.analysis, harvest_assets.results.count_tensors; "
        "import harvest_assets.results.components_jsonl; "
        "heavy = {m for m in sys.modules} & {'torch', 'polars', 'transformers', 'dagster'}; "
        "sys.exit(0 if light and not heavy else str(heavy))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
