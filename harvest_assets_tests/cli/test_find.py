"""`harvest-assets find`: the places of a text, against the kept windows, in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout
from harvest_assets_tests.viewer.synthetic import write_harvest

TEXTS = [" the", "the", " The", "re", "sult", "\x1b[31m", " of", " a"]


@pytest.fixture(scope="module", autouse=True)
def _harvest(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("find") / "out"
    write_harvest(out / "harvest" / "few", TEXTS, 12, 3, seed=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(out))
        yield


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["find", "few", *arguments])


def n_windows(*pairs: tuple[str, str]) -> int:
    """How often one token follows another in the windows of the uniform sample."""
    n = 0
    for line in HarvestLayout.of("few").components.read_text().splitlines():
        for example in json.loads(line)["activation_examples"]:
            tokens = [TEXTS[i] if i >= 0 else "" for i in example["token_ids"]]
            n += sum(pair in pairs for pair in pairwise(tokens))
    return n


def test_places_are_listed_with_what_fires_there():
    script = (
        "import sys\nfrom harvest_assets.cli.main import cli\n"
        "try: cli(['find', 'few', 'result', '--json'])\n"
        "finally: print({'torch', 'dagster', 'fastapi'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "indexing" in done.stderr
    assert done.stderr.endswith("set()\n"), "what no search needs is not loaded"
    found = json.loads(done.stdout)
    assert found["n"] >= n_windows(("re", "sult")) > 0
    assert found["n_pages"] == -(-found["n"] // 20)
    assert all(hit["text"] == "result" for hit in found["hits"])
    shown = invoke("result")
    assert "indexing" not in shown.stderr
    assert shown.stdout.count("<<result>>") == len(found["hits"]) == min(20, found["n"])
    for hit in found["hits"]:
        assert f"{hit['row']}:{hit['position']}" in shown.stdout
    second = json.loads(invoke("the", "--page", "2", "--json").stdout)
    assert second["page"] == 2
    assert {hit["text"].lower() for hit in second["hits"]} <= {"the", " the"}


def test_case_and_whole_tokens_differ():
    n = {
        arguments: json.loads(invoke(*arguments, "--json").stdout)["n"]
        for arguments in ((" the",), (" the", "--case"), ('" the"',))
    }
    assert n[" the",] > n[" the", "--case"] >= n['" the"',] > 0
    assert "\x1b" not in invoke("\x1b[31m").stdout


@pytest.mark.parametrize(("arguments", "status"), [(("",), 2), (("a" * 1001,), 1)])
def test_what_cannot_be_searched_is_refused(arguments: tuple[str, ...], status: int):
    assert invoke(*arguments).exit_code == status
