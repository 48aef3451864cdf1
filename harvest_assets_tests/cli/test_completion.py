"""What a shell is offered where the user presses Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.cli.spd_harvest import spd_harvest_command

BASH = """
eval "$(harvest-assets completion bash)"
COMP_WORDS=(harvest-assets view s-b) COMP_CWORD=2
_harvest_assets_completion harvest-assets
echo "${COMPREPLY[@]}"
COMPREPLY=()
COMP_WORDS=(spd-harvest --dry) COMP_CWORD=1
_spd_harvest_completion spd-harvest
echo "${COMPREPLY[@]}"
"""


def offered(*words: str) -> list[str]:
    """The completions of the last word."""
    *before, last = words
    complete = ShellComplete(cli, {}, "harvest-assets", "_HARVEST_ASSETS_COMPLETE")
    return [item.value for item in complete.get_completions(before, last)]


@pytest.fixture
def harvests(out_dir: Path) -> None:
    for name in ("s-aaaa1111", "s-bbbb2222", ".hidden"):
        (out_dir / "harvest" / name).mkdir(parents=True)
    (out_dir / "harvest/s-file").write_text("no harvest")


@pytest.mark.usefixtures("harvests")
def test_commands_options_and_harvests_are_completed():
    assert offered("ver") == ["verify"]
    assert offered("verify", "--q") == ["--quiet"]
    assert offered("local/spd/s-aaaa1111", "--n-b") == ["--n-batches"]  # a run instead of a command
    assert offered("veiw", "--dry") == ["--dry-run"]
    for command in ("verify", "view", "find", "status", "pack", "push", "export"):
        assert offered(command, "s-") == ["s-aaaa1111", "s-bbbb2222"]
    assert offered("completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.usefixtures("out_dir")
def test_without_harvests_none_are_offered():
    assert offered("view", "") == []


def test_spd_harvest_is_completed():
    complete = ShellComplete(spd_harvest_command, {}, "spd-harvest", "_SPD_HARVEST_COMPLETE")
    assert "--slurm" in {item.value for item in complete.get_completions(["x"], "--s")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_for_both_commands(shell: str):
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_HARVEST_ASSETS_COMPLETE" in result.stdout
    assert "_SPD_HARVEST_COMPLETE" in result.stdout


@pytest.mark.usefixtures("harvests")
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", BASH],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["s-bbbb2222", "--dry-run"], done.stderr
