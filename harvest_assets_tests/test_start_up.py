"""Which modules are loaded: what starts often, or waits for a user, loads little."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest

HEAVY = ("torch", "transformers", "datasets", "wandb", "openai", "pydantic_ai", "matplotlib")


def loaded_after(program: str, out: Path | None = None) -> set[str]:
    """The modules of a process that has run this program."""
    at_exit = "import atexit, sys\natexit.register(lambda: print('\\nloaded', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", at_exit + program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ if out is None else {**os.environ, "SPD_OUT_DIR": str(out)},
    )
    return set(done.stdout.rpartition("\nloaded ")[2].split())


def loaded_by(*modules: str) -> set[str]:
    return loaded_after(f"import {', '.join(modules)}")


def loaded_by_command(*arguments: str, out: Path) -> set[str]:
    program = f"from harvest_assets.cli.main import cli\ncli({list(arguments)})"
    return loaded_after(program, out)


def test_definitions_load_no_model_code():
    assert not loaded_by("harvest_assets.definitions").intersection(HEAVY)


def test_the_reading_side_starts_fast():
    loaded = loaded_by("harvest_assets.loaders", "harvest_assets.analysis")
    assert not loaded.intersection({*HEAVY, "dagster", "polars", "pyarrow"})


def test_heart_and_files_know_nothing_of_dagster():
    heart = ("harvest_assets.harvester.stream", "harvest_assets.decompositions.spd.model")
    files = ("harvest_assets.store.compaction", "harvest_assets.store.resume")
    assert "dagster" not in loaded_by(*heart, *files)


def test_the_dry_run_knows_nothing_of_dagster():
    assert "dagster" not in loaded_by("harvest_assets.cli.dry_run")


def test_the_viewer_starts_and_opens_a_harvest_without_model_code(tmp_path: Path):
    write_harvest(tmp_path / "harvest" / "s-aaaaaaaa", TEXTS, 20, 3, 0)
    program = (
        "import harvest_assets.viewer.serve\n"
        "from harvest_assets.viewer.library import Library\n"
        "print(len(Library().get('s-aaaaaaaa').frame))"
    )
    loaded = loaded_after(program, tmp_path)
    assert "polars" in loaded
    assert not loaded.intersection({*HEAVY, "dagster", "pandas"})


@pytest.mark.parametrize(
    "arguments", [[], ["harvest"], ["demo"], ["register"], ["view"], ["score"], ["clean"]], ids=str
)
def test_help_appears_at_once(arguments: list[str], tmp_path: Path):
    loaded = loaded_by_command(*arguments, "--help", out=tmp_path)
    assert "click" in loaded
    assert not loaded.intersection({*HEAVY, "dagster", "polars", "pyarrow", "numpy"})


@pytest.mark.parametrize("options", [["--batch-size", "-1"], ["--seed", "x"], ["--unknown"]])
def test_bad_options_are_refused_at_once(options: list[str], tmp_path: Path):
    loaded = loaded_by_command("local/spd/s-aaaaaaaa", *options, out=tmp_path)
    assert "click" in loaded
    assert not loaded.intersection({*HEAVY, "dagster", "polars", "pyarrow", "numpy"})
    assert not list(tmp_path.iterdir())


def test_bad_options_of_spd_harvest_are_refused_at_once(tmp_path: Path):
    program = (
        "from harvest_assets.cli.spd_harvest import spd_harvest_command\n"
        "spd_harvest_command(['local/spd/s-aaaaaaaa', '--batch-size', '-1'])"
    )
    loaded = loaded_after(program, tmp_path)
    assert "click" in loaded
    assert not loaded.intersection({*HEAVY, "dagster"})
