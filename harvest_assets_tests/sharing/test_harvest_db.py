"""A harvest in SPD's newer form, read back by a reader of that form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files import free_space, manifest
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.results.count_tensors import CorrelationStorage
from harvest_assets.sharing import exporting, harvest_db
from harvest_assets.store.plan import HarvestPlan
from harvest_assets_tests.faults import small_harvest
from harvest_assets_tests.faults.small_harvest import N_CTX, N_ROWS, SmallHarvest
from harvest_assets_tests.sharing.harvest_db_reader import last_folder, read
from harvest_assets_tests.sharing.machine import NAME

KEY = "h.0.mlp:3"


class Table(small_harvest.Table):
    """Many causal importances are exactly the threshold, which is no firing.

    As decimal digits they are read as more than the threshold of float32.
    """

    def __init__(self, *, second_values: bool = True) -> None:
        super().__init__(second_values=second_values)
        self.ci[::2][self.ci[::2] == 0] = 1e-6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_harvest, "Table", Table)
        SmallHarvest(root).run()
    return root


@pytest.fixture
def paths(made: Path, out_dir: Path) -> HarvestLayout:
    """A harvest of the test's own."""
    return HarvestLayout(Path(shutil.copytree(made, out_dir / "harvest" / NAME)))


def intruder(key: str, score: float) -> Score:
    return Score(key, "intruder", score, None, None, 0.2, 10, 0, "someone")


def export(folder: Path, *options: str) -> Result:
    command = ["export", NAME, str(folder), "--format", "harvest-db", *options]
    return CliRunner().invoke(cli, command)


def refused(folder: Path) -> str:
    """What a refusal says; it leaves nothing behind."""
    result = export(folder)
    assert result.exit_code == 1, result.output
    assert not folder.exists() or not any(folder.iterdir())
    return result.stderr


def plan_of(paths: HarvestLayout) -> str:
    return HarvestPlan.open(paths.root).digest


def publish_config(paths: HarvestLayout, **more: str) -> None:
    """Replace `config.json` as a harvest does."""
    write_json(paths.config, {**json.loads(paths.config.read_text()), **more})
    manifest.record(paths, paths.config, plan_of(paths))


def test_components_config_and_scores_are_those_of_the_harvest(
    paths: HarvestLayout, tmp_path: Path
):
    for key, score in ((KEY, 0.5), (KEY, 0.7), ("h.9.gone:0", 0.1)):
        Interpretations(paths).add([intruder(key, score)])
    done = export(tmp_path / "handed", "--json")
    assert done.exit_code == 0, done.output
    folder = last_folder(tmp_path / "handed")
    files = ["component_correlations.pt", "harvest.db", "token_stats.pt"]
    assert sorted(it.name for it in folder.iterdir()) == files
    found = read(folder)
    assert json.loads(done.stdout) == {
        "harvest": NAME,
        "path": str(folder),
        "format": "harvest-db",
        "components": len(found.components),
        "scores": 1,
        "n_bytes": sum(it.stat().st_size for it in folder.iterdir()),
    }
    assert found.config == {
        "method_config": {
            "type": "SPDHarvestConfig",
            "wandb_path": "local/faults/x-aaaaaaaa",
            "activation_threshold": 1e-6,
        },
        "n_batches": 12,
        "batch_size": 8,
        "activation_examples_per_component": 8,
        "activation_context_tokens_per_side": 3,
        "pmi_token_top_k": 4,
        "max_examples_per_batch_per_component": 8,
    }
    ((name, (score, details)),) = found.scores.items()
    assert (name, score, json.loads(details)["n_trials"]) == ((KEY, "intruder"), 0.7, 10)
    lines = [json.loads(line) for line in paths.components.open()]
    assert list(found.components) == [line["component_key"] for line in lines]
    for line in lines:
        row = found.components[line["component_key"]]
        assert (row["layer"], row["component_idx"]) == (line["layer"], line["component_idx"])
        assert row["mean_activations"] == {"causal_importance": line["mean_ci"]}
        assert row["input_token_pmi"] == line["input_token_pmi"]
        assert row["output_token_pmi"] == line["output_token_pmi"]


@pytest.mark.usefixtures("paths")
def test_examples_have_no_padding_and_say_who_fired(tmp_path: Path):
    """The model answers by token, so the table says what each place of an example must be."""
    assert export(tmp_path).exit_code == 0
    table, lengths = Table(), set()
    flat = {f"h.0.mlp:{i}": i for i in range(14)} | {f"h.1.attn:{i}": 14 + i for i in range(10)}
    for key, row in read(last_folder(tmp_path)).components.items():
        ci, acts = table.ci[:, flat[key]], table.acts[:, flat[key]]
        for example in row["activation_examples"]:
            ids = example["token_ids"]
            lengths.add(len(ids))
            assert example["firings"] == (ci[ids] > 1e-6).tolist()
            assert any(example["firings"])
            values = example["activations"]
            assert np.float32(values["causal_importance"]).tolist() == ci[ids].tolist()
            assert np.float32(values["component_activation"]).tolist() == acts[ids].tolist()
    assert lengths == {4, 5, 6, 7}  # 3 tokens a side, cut at the ends of rows


def test_densities_are_shares_of_all_positions(paths: HarvestLayout, tmp_path: Path):
    assert export(tmp_path).exit_code == 0
    counts = torch.load(paths.component_correlations, weights_only=True)
    firings = dict(zip(counts["component_keys"], counts["count_i"].tolist(), strict=True))
    rows = read(last_folder(tmp_path)).components
    assert rows.keys() == {key for key, n in firings.items() if n}
    for key, row in rows.items():
        assert row["firing_density"] == firings[key] / (N_ROWS * N_CTX)


def test_an_export_is_independent_of_the_harvest_and_of_the_next(
    paths: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = {file: file.read_bytes() for file in paths.five_files}
    assert export(tmp_path / "handed").exit_code == 0
    first = last_folder(tmp_path / "handed")
    (first / "token_stats.pt").write_bytes(b"written over by its new owner")
    assert {file: file.read_bytes() for file in paths.five_files} == before

    class SameSecond(exporting.datetime):
        @classmethod
        def now(cls, tz):
            return cls.strptime(first.name, "h-%Y%m%d_%H%M%S").replace(tzinfo=tz)

    monkeypatch.setattr(exporting, "datetime", SameSecond)
    again = export(tmp_path / "handed")
    assert again.exit_code == 1
    assert first.name in again.stderr
    assert (first / "token_stats.pt").read_bytes() == b"written over by its new owner"
    assert [it.name for it in (tmp_path / "handed").iterdir()] == [first.name]


def test_what_is_not_a_finished_harvest_of_spd_is_refused(paths: HarvestLayout, tmp_path: Path):
    publish_config(paths, kind="dictionaries")
    assert "dictionaries" in refused(tmp_path / "handed")
    paths.plan.unlink()
    assert "plan.json" in refused(tmp_path / "handed")
    paths.manifest.unlink()
    assert "manifest.json" in refused(tmp_path / "handed")


def test_a_folder_among_our_harvests_is_refused(paths: HarvestLayout):
    for folder in (paths.root.parent, paths.root.parent / "new"):
        result = export(folder)
        assert result.exit_code == 1
        assert str(folder) in result.stderr
    assert [it.name for it in paths.root.parent.iterdir()] == [NAME]


def test_a_full_disk_is_refused_before_anything_is_copied(
    paths: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    n_bytes = paths.component_correlations.stat().st_size
    monkeypatch.setattr(free_space, "free_bytes", lambda _: n_bytes)
    monkeypatch.setattr(harvest_db, "HashedFile", None)
    assert "free" in refused(tmp_path / "handed")


def test_without_cofirings_their_file_is_left_out(paths: HarvestLayout, tmp_path: Path):
    counts = CorrelationStorage.load(paths.component_correlations)
    counts.count_ij = None
    digest = counts.save(paths.component_correlations)
    manifest.record(paths, paths.component_correlations, plan_of(paths), digest)
    done = export(tmp_path / "handed")
    assert done.exit_code == 0, done.output
    assert "co-firings" in done.stderr
    files = {it.name for it in last_folder(tmp_path / "handed").iterdir()}
    assert files == {"harvest.db", "token_stats.pt"}


@pytest.mark.parametrize(
    "name", ["activation_contexts/components.jsonl", "correlations/token_stats.pt"]
)
def test_a_damaged_file_is_refused_by_name(name: str, paths: HarvestLayout, tmp_path: Path):
    file = paths.root / name
    content = bytearray(file.read_bytes())
    place = content.rindex(b"1")
    content[place : place + 1] = b"2"
    file.write_bytes(content)
    assert file.name in refused(tmp_path / "handed")


def test_files_that_do_not_belong_together_are_refused(paths: HarvestLayout, tmp_path: Path):
    counts = CorrelationStorage.load(paths.component_correlations)
    counts.count_i[counts.component_keys.index(KEY)] = 0
    digest = counts.save(paths.component_correlations)
    manifest.record(paths, paths.component_correlations, plan_of(paths), digest)
    assert KEY in refused(tmp_path / "handed")


def test_an_interrupted_export_leaves_nothing(paths: HarvestLayout, tmp_path: Path):

    def interrupt(_activity: str, done: int, total: int) -> None:
        if done > total - 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest_db.export(paths, tmp_path / "handed", [], interrupt)
    assert not any((tmp_path / "handed").iterdir())
