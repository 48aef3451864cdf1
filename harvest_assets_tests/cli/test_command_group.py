"""The first argument of the command: a command, help, a misspelled command, or a run."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.cli.spd_harvest import spd_harvest_command

COMMANDS = cli.list_commands(click.Context(cli))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["help"]])
def test_help_of_the_group(arguments: list[str]):
    result = invoke(*arguments)
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"harvest-assets {command} " in result.output or f"  {command} " in result.output
    assert invoke().output == result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str):
    result = invoke(command, "-h")
    assert result.exit_code == 0
    assert result.output == invoke("help", command).output == invoke(command, "--help").output
    assert command in result.output.splitlines()[0]
    assert result.output != invoke("-h").output


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_every_command_are_taken_in_either_spelling(command: str):
    found = cli.get_command(click.Context(cli), command)
    several = found.commands if isinstance(found, click.Group) else {None: found}
    for name, each in several.items():
        words = [command] if name is None else [command, name]
        for option in (it for it in each.params if isinstance(it, click.Option)):
            dashed = option.opts[0]
            for spelled in (dashed, "--" + dashed.removeprefix("--").replace("-", "_")):
                value = [] if option.is_flag else ["1"]
                result = invoke(*words, spelled, *value, "-h")  # help, once all words are known
                assert result.exit_code == 0, result.output
    assert invoke(command, "--no_such_option", "-h").exit_code == 2


def test_help_of_spd_harvest():
    short, long = (CliRunner().invoke(spd_harvest_command, [it]) for it in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("veiw", "view"),
        ("verfy", "verify"),
        ("regster", "register"),
        ("regsiter", "register"),  # has the form of a run id
        ("backfil", "backfill"),
        ("View", "view"),
        ("hepl", "help"),
    ],
)
def test_a_misspelled_command_is_suggested(word: str, command: str):
    for rest in ([], ["local/spd/aaaaaaaa"], ["-h"]):
        result = invoke(word, *rest)
        assert result.exit_code == 2
        assert repr(word) in result.stderr
        assert repr(command) in result.stderr


@pytest.mark.parametrize(
    "run", ["local/view/s-aaaaaaaa", "./veiw", "veiw/", "abcd1234", "~nobody", "x" * 5000]
)
@pytest.mark.usefixtures("out_dir")
def test_other_words_are_runs(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(run, "--dry-run")
    assert result.exit_code == 1
    assert run[:200] in result.stderr


@pytest.mark.usefixtures("out_dir")
def test_a_folder_that_is_named_almost_like_a_command_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "veiw").mkdir()
    monkeypatch.chdir(tmp_path)
    result = invoke("veiw", "--dry-run")
    assert result.exit_code == 1
    assert str(tmp_path / "veiw") in result.stderr
