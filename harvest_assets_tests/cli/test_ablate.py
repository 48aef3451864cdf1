"""`harvest-assets ablate` and `weights`, in a terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.lists import ComponentList, keep
from harvest_assets.live.ablation import AblateQuestion, answer_ablation
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.weights import WeightsQuestion, answer_weights
from harvest_assets_tests.tiny_harvest import FINISHED

KEY = "h.0.mlp.up_proj:0"


@pytest.fixture(autouse=True)
def _out_dir(finished_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished_out / "harvest", tmp_path / "harvest")
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))


def invoke(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [command, FINISHED, *arguments])


def test_what_is_taken_out_is_printed():
    question = AblateQuestion(text="merge the rows", without=(KEY,), top=2)
    expected = answer_ablation(OpenedRun(HarvestLayout.of(FINISHED)), question)
    assert expected.changed is not None
    arguments = ("merge the rows", "--without", KEY, "--top", "2")
    printed = json.loads(invoke("ablate", *arguments, "--json").stdout)
    assert [it["kl"] for it in printed["changed"]["positions"]] == [
        it.kl for it in expected.changed.positions
    ]
    assert len(printed["changed"]["positions"][0]["gains"]) == 2
    lines = invoke("ablate", *arguments).stdout.splitlines()
    assert len(lines) == 3 + 3 * len(expected.positions)
    name = keep(HarvestLayout.of(FINISHED), ComponentList("Kept", FINISHED, (KEY,)))
    listed = invoke("ablate", "merge the rows", "--list", name, "--top", "2", "--json").stdout
    assert json.loads(listed)["changed"] == printed["changed"]
    for refused in (
        ("a", "--list", "none"),
        ("a", "--without", "x:1"),
        ("a", "--only", KEY, "--only-firing"),
        (),
    ):
        assert invoke("ablate", *refused).exit_code == 1


def test_weights_are_printed():
    expected = answer_weights(
        OpenedRun(HarvestLayout.of(FINISHED)), WeightsQuestion(component=KEY, top=3)
    )
    shown = invoke("weights", KEY, "--top", "3").stdout
    for neighbour in (*expected.same_layer, *expected.other_layers):
        assert neighbour.component in shown
    printed = json.loads(invoke("weights", KEY, "--top", "3", "--json").stdout)
    tokens = [it["token_id"] for it in printed["reads"]["highest"]]
    assert expected.reads is not None
    assert tokens == [it.token_id for it in expected.reads.highest]
    assert invoke("weights", "x:1").exit_code == 1
    assert KEY in invoke("weights", KEY.replace("proj", "prj")).stderr
    assert "up_proj:11" in invoke("weights", "h.0.mlp.up_proj:99").stderr
