"""Which harvest a name means: the run's own one or none, for the loaders and for the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.loaders import (
    activation_examples,
    load_activation_context_single,
    load_activation_contexts_summary,
    load_components_frame,
    load_correlations,
    load_token_stats,
    load_tokenizer_of,
)
from harvest_assets.store import registry
from harvest_assets.store.lookup import find_harvest, registration_named
from harvest_assets.store.registry import register, registration_of
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world

SPD, OTHER = "local/spd/s-aaaa1111", "local/other/s-aaaa1111"
SPELLINGS = [
    OTHER,
    "local/other/runs/s-aaaa1111",
    "wandb:local/other/runs/s-aaaa1111",
    " wandb:local/other/s-aaaa1111 ",
    "https://wandb.ai/local/other/runs/s-aaaa1111",
    "https://wandb.ai/local/other/runs/s-aaaa1111/",
    "https://wandb.ai/local/other/runs/s-aaaa1111/overview?nw=x#top",
]
LOADERS: list[Callable[[str], object]] = [
    load_activation_contexts_summary,
    load_correlations,
    load_token_stats,
    load_components_frame,
    lambda run: load_activation_context_single(run, "h.0:0"),
    lambda run: activation_examples(run, "h.0:0", 3),
]


def written(out_dir: Path, folder: str, run: str | None = None, mean_ci: float = 1.0) -> Path:
    """A harvest by another writer; `mean_ci` shows which one was read."""
    contexts = out_dir / "harvest" / folder / "activation_contexts"
    contexts.mkdir(parents=True)
    config = {} if run is None else {"wandb_path": run}
    (contexts / "config.json").write_text(json.dumps(config))
    summary = {"h.0:0": {"layer": "h.0", "component_idx": 0, "mean_ci": mean_ci}}
    (contexts / "summary.json").write_text(json.dumps(summary))
    return contexts.parent


def read(run: str) -> float:
    summary = load_activation_contexts_summary(run)
    assert summary is not None
    return summary["h.0:0"].mean_ci


def not_found(run: str) -> str:
    with pytest.raises(HarvestNotFoundError) as caught:
        find_harvest(run)
    return str(caught.value)


@pytest.fixture
def two_runs(out_dir: Path) -> Path:
    """Two runs of one id, harvested into folders of different names."""
    written(out_dir, "s-aaaa1111", f"wandb:{SPD}", 0.25)
    written(out_dir, "second", f"wandb:{OTHER}", 0.75)
    return out_dir / "harvest"


@pytest.mark.parametrize("run", SPELLINGS)
@pytest.mark.usefixtures("two_runs")
def test_a_full_name_finds_its_own_run(run: str):
    assert read(run) == 0.75
    assert read(run.replace("other", "spd")) == 0.25
    assert read("s-aaaa1111") == 0.25
    assert read("second") == 0.75


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("run", ["anybody/anything/s-aaaa1111", "spd/s-aaaa1111", "aaaa1111"])
@pytest.mark.usefixtures("two_runs")
def test_another_runs_harvest_is_never_loaded(run: str, load: Callable[[str], object]):
    with pytest.warns(UserWarning, match="aaaa1111") as warned:
        assert load(run) is None
    (warning,) = warned
    assert warning.filename == __file__
    for there in ("second", OTHER, SPD):
        assert there in str(warning.message)


@pytest.mark.parametrize("command", ["verify", "view"])
@pytest.mark.parametrize("run", ["anybody/anything/s-aaaa1111", "spd/s-aaaa1111", "aaaa1111"])
@pytest.mark.usefixtures("two_runs")
def test_commands_fail_with_a_list_of_harvests(command: str, run: str):
    done = CliRunner().invoke(cli, [command, run])
    assert done.exit_code == 1
    for there in (run, "second", OTHER, SPD):
        assert there in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.usefixtures("two_runs")
def test_a_tokenizer_of_no_harvest_is_an_error():
    with pytest.raises(HarvestNotFoundError, match="second"):
        load_tokenizer_of("anybody/anything/s-aaaa1111")


def test_several_harvests_of_a_run_are_listed(two_runs: Path):
    third = two_runs / "third"
    third.mkdir()
    (third / "run_checkpoint.json").write_text(json.dumps({"run": OTHER}))
    with pytest.warns(UserWarning, match=r"second.*third|third.*second"):
        assert load_activation_contexts_summary(OTHER) is None
    assert read(SPD) == 0.25
    assert find_harvest("third").root == third
    for command in ("verify", "view"):
        done = CliRunner().invoke(cli, [command, OTHER])
        assert done.exit_code == 1
        assert "second" in done.stderr
        assert "third" in done.stderr
        assert "s-aaaa1111 (" not in done.stderr


def test_long_lists_are_cut_with_close_names_first(out_dir: Path):
    for i in range(40):
        written(out_dir, f"zz{i:04d}xx", f"wandb:e/p/zz{i:04d}xx")
    written(out_dir, "s-d2ec3bfe")
    said = not_found("s-d2ec3bfa")
    assert "31 more" in said
    assert said.index("s-d2ec3bfe") < said.index("zz")
    assert said.count("zz") == 2 * 9
    assert "e/p/" in said


def test_an_empty_harvest_folder_is_reported(out_dir: Path):
    for run in ("s-aaaa1111", SPD):
        assert str(out_dir / "harvest") in not_found(run)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"run": 3}', b"\xff", b'{"run": "no run"}'])
def test_damage_elsewhere_hides_no_harvest(two_runs: Path, content: bytes):
    broken = two_runs / "a-broken"
    broken.mkdir()
    (broken / "run_checkpoint.json").write_bytes(content)
    assert read(OTHER) == 0.75
    registration = two_runs.parent / "registered" / f"{OTHER}.json"
    registration.parent.mkdir(parents=True)
    registration.write_bytes(content)
    assert read(OTHER) == 0.75


def test_a_harvest_that_names_no_run_is_found_by_its_folder(out_dir: Path):
    written(out_dir, "s-aaaa1111", mean_ci=0.25)
    assert read("s-aaaa1111") == 0.25
    with pytest.warns(UserWarning, match="does not name its run"):
        assert read(SPD) == 0.25
    written(out_dir, "second", mean_ci=0.75)
    register(parse_run(OTHER), "second")
    with pytest.warns(UserWarning, match="does not name its run"):
        assert read(OTHER) == 0.75


@pytest.mark.parametrize("damaged", ["run_checkpoint.json", "activation_contexts/config.json"])
@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_harvest_whose_run_cannot_be_read_is_nobodys(out_dir: Path, damaged: str, content: str):
    written(out_dir, "s-aaaa1111", mean_ci=0.25)
    (out_dir / "harvest/s-aaaa1111" / damaged).write_text(content)
    with pytest.warns(UserWarning, match="s-aaaa1111"):
        assert load_activation_contexts_summary("nobody/spd/s-aaaa1111") is None
    assert read("s-aaaa1111") == 0.25


@pytest.mark.usefixtures("two_runs")
def test_a_slash_at_the_end_is_that_of_a_completed_name():
    assert read("second/") == 0.75
    assert read(f"{OTHER}/") == 0.75


def test_a_runs_own_folder_is_found_without_reading_others(
    two_runs: Path, monkeypatch: pytest.MonkeyPatch
):
    files = []
    read_json = registry.read_json
    monkeypatch.setattr(registry, "read_json", lambda file: files.append(file) or read_json(file))
    assert find_harvest(SPD).root == find_harvest("s-aaaa1111").root
    assert {file.relative_to(two_runs).parts[0] for file in files} == {"s-aaaa1111"}


def test_the_first_folder_can_be_chosen_again(out_dir: Path):  # noqa: ARG001
    for out_name in ("demo2", "s-aaaa1111"):
        register(parse_run(SPD), out_name)
        assert registration_of(SPD).out_name == out_name


def test_a_second_harvest_of_a_run_is_named_separately(
    out_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = write_world(tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        first = TinyHarvest.of(instance, run)
        first.harvest(n_batches=2)
        second = TinyHarvest.of(instance, run, "demo2")
        assert second.stage("prepare", n_batches=3, batch_size=4).success
    assert second.layout.root == out_dir / "harvest" / "demo2"

    def verify(name: str):
        return CliRunner().invoke(cli, ["verify", name])

    own = verify(first.layout.root.name)
    assert own.exit_code == 0, own.output
    assert str(first.layout.root) in own.stdout
    unfinished = verify("demo2")
    assert unfinished.exit_code == 1
    assert str(second.layout.config) in unfinished.stderr
    for name in (first.key, str(run), str(run.relative_to(tmp_path))):
        both = verify(name)
        assert both.exit_code == 1
        assert "missing" not in both.stderr
        assert first.layout.root.name in both.stderr
        assert "demo2" in both.stderr


def test_a_short_name_is_refused_with_the_full_ones(two_runs: Path):
    register(parse_run("local/registered/s-aaaa1111"), "elsewhere")
    for name, runs in (
        ("s-aaaa1111@dense", (SPD, OTHER, "local/registered/s-aaaa1111")),
        ("second@dense", (OTHER,)),
    ):
        with pytest.raises(HarvestError) as refused:
            registration_named(name)
        assert all(f"{run}@dense" in str(refused.value) for run in runs)
        assert (SPD in str(refused.value)) == (SPD in runs)
    assert not (two_runs / "s-aaaa1111@dense").exists()
