"""`harvest-assets prompt`: the components that fire on a text, in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptQuestion, answer_prompt
from harvest_assets_tests.tiny_harvest import FINISHED


@pytest.fixture(autouse=True)
def _out_dir(finished_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))


def invoke(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["prompt", FINISHED, *arguments], input=stdin)


def test_a_text_is_printed_with_what_fires_on_it():
    question = PromptQuestion(text="merge the rows", top=3)
    expected = answer_prompt(OpenedRun(HarvestLayout.of(FINISHED)), question)
    printed = json.loads(invoke("-", "--top", "3", "--json", stdin=b"merge the rows").stdout)
    firing = [[f["component"] for f in it["firing"]] for it in printed["positions"]]
    assert firing == [[f.component for f in it.firing] for it in expected.positions]
    shown = invoke("merge the rows", "--top", "3", "--component", firing[-1][0]).stdout
    lines = shown.splitlines()
    for keys in firing:
        assert all(any(key in line for line in lines) for key in keys)
    assert len(lines) == 3 + len(firing) + sum(map(len, firing))
    last = invoke("merge the rows", "--at", "-1").stdout.splitlines()
    assert f'{len(firing) - 1}  "' in last[1]


def test_bytes_that_are_no_text_and_control_characters_do_no_harm():
    refused = invoke("-", stdin=b"a\xffb")
    assert refused.exit_code == 1
    assert "U+DCFF" in refused.stderr
    assert "\x1b" not in invoke("-", stdin=b"a\x1b[31m\x00b").stdout
    assert invoke().exit_code == 1
    assert invoke("--ids", "1 x").exit_code == 1
