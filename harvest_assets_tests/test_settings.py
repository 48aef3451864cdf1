"""A setting has its default, bounds and description in one place, and users see them everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.cli.options import HarvestingCommand, harvest_options
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.wandb.settings import WatchSettings
from harvest_assets.settings import (
    HarvestDefaults,
    HarvestSettings,
    PreflightSettings,
    SampleSettings,
    StorageSettings,
)
from harvest_assets.stages import Asset
from harvest_assets_tests import variables

# What users know: names and defaults.
DEFAULTS = {
    "n_batches": None,
    "batch_size": 256,
    "context_length": None,
    "ci_threshold": 1e-6,
    "activation_examples_per_component": 1000,
    "activation_context_tokens_per_side": 10,
    "pmi_token_top_k": 40,
    "n_shards": None,
    "seed": 0,
    "layers": None,
    "cooccurrence": True,
    "keep_firings": 0,
    "ci_noise": False,
    "bf16": False,
}


def test_names_and_defaults_are_those_that_users_know():
    assert HarvestSettings().model_dump() == DEFAULTS
    assert HarvestSettings.over_defaults({}) == HarvestSettings()
    sample = HarvestSettings(seed=5, ci_threshold=0.5, batch_size=3).sample
    assert type(sample) is SampleSettings
    assert sample == SampleSettings(seed=5, ci_threshold=0.5)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ([], None),
        (["--keep-firings"], -1),
        (["--keep-firings", "all"], -1),
        (["--keep-firings=-1"], -1),
        (["--keep-firings", "-1", "--seed", "3"], -1),
        (["--keep-firings", "500"], 500),
    ],
)
def test_firings_are_kept_of_all_rows_or_of_a_number(given: list[str], rows: int | None):
    @click.command(cls=HarvestingCommand)
    @click.argument("run")
    @harvest_options
    def harvest(keep_firings: int | None, **_: object) -> None:
        click.echo(repr(keep_firings))

    assert CliRunner().invoke(harvest, ["run", *given]).output == f"{rows!r}\n"
    wrong = CliRunner().invoke(harvest, ["--keep-firings", "run"])
    assert wrong.exit_code == 2
    assert "'run'" in wrong.output


def test_the_options_are_the_settings():
    shown = CliRunner().invoke(cli, ["harvest", "--help"]).output
    shown = " ".join(shown.split())
    for name, default in DEFAULTS.items():
        option = f"--{name.replace('_', '-')}"
        assert f" {option} " in shown
        text = shown[shown.index(f" {option} ") :].split("[default: ")
        if default is not None:
            assert text[1].startswith(f"{default}]"), name
        assert str(HarvestSettings.model_fields[name].description) in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_batches", 0),
        ("batch_size", 0),
        ("batch_size", 1 << 31),
        ("context_length", 0),
        ("ci_threshold", -0.5),
        ("ci_threshold", float("nan")),
        ("ci_threshold", float("inf")),
        ("activation_examples_per_component", -1),
        ("activation_context_tokens_per_side", -1),
        ("pmi_token_top_k", -1),
        ("n_shards", 0),
        ("n_shards", 17),
        ("seed", 1 << 64),
        ("seed", -(1 << 63) - 1),
        ("batch_size", 2.5),
        ("batch_size", "many"),
        ("bf16", "loud"),
        ("batchsize", 8),
    ],
)
def test_a_value_out_of_bounds_is_named_in_one_sentence(name: str, value: object):
    with pytest.raises(HarvestError) as caught:
        HarvestSettings(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert name == "batchsize" or repr(value) in message
    assert message.count("\n") == 0


@pytest.mark.parametrize("seed", [-(1 << 63), (1 << 64) - 1])
def test_the_bounds_themselves_are_accepted(seed: int):
    settings = HarvestSettings(seed=seed, n_shards=16, n_batches=1, ci_threshold=0)
    assert (settings.seed, settings.n_shards) == (seed, 16)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("No", False), (" true ", True)])
def test_a_deployment_sets_a_default(text: str, value: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_CI_NOISE", text)
    monkeypatch.setenv("HARVEST_N_BATCHES", " 12 ")
    settings = HarvestSettings.over_defaults({"seed": 3})
    assert (settings.ci_noise, settings.n_batches, settings.seed) == (value, 12, 3)
    assert HarvestSettings.over_defaults({"n_batches": None}).n_batches is None
    assert type(settings) is HarvestSettings


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_counts_as_not_set(blank: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_BATCH_SIZE", blank)
    assert HarvestDefaults.from_environment().batch_size == 256


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HARVEST_N_BATCHES", "abc"),
        ("HARVEST_N_SHARDS", "17"),
        ("HARVEST_CI_NOISE", "loud"),
        ("HARVEST_CI_THRESHOLD", "nan"),
        ("HARVEST_SEED", "1.5"),
    ],
)
def test_a_variable_that_is_not_valid_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(HarvestError, match=f"^{variable} is .*{re.escape(value)}"):
        HarvestSettings.over_defaults({})


@pytest.mark.parametrize("command", [["-h"], ["harvest", "-h"]])
def test_help_appears_whatever_the_variables_hold(
    command: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_N_BATCHES", "abc")
    monkeypatch.setenv("HARVEST_SLURM_CPUS", "many")
    shown = subprocess.run(
        [sys.executable, "-m", "harvest_assets", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Usage: harvest-assets" in shown.stdout


def test_help_shows_the_deployments_defaults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "77")
    shown = subprocess.run(
        [sys.executable, "-m", "harvest_assets", "harvest", "-h"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "[default: 77]" in " ".join(shown.stdout.split())


def test_patterns_of_the_environment_have_blanks_between_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_LAYERS", " h.[0,1].*  wte ")
    assert HarvestDefaults.from_environment().layers == ("h.[0,1].*", "wte")


def test_order_and_duplicates_of_patterns_do_not_matter():
    assert HarvestSettings(layers=["b", "a", "b"]) == HarvestSettings(layers=("a", "b"))


def test_the_page_of_variables_is_up_to_date():
    assert variables.PAGE.read_text("utf-8") == variables.page(), "run `make variables`"


def test_every_variable_in_code_and_docs_has_a_row():
    rows = set(re.findall(r"^\| `(HARVEST_[A-Z_0-9]+)` \|", variables.page(), re.MULTILINE))
    assert {"HARVEST_N_BATCHES", "HARVEST_KEEP", "HARVEST_WANDB_SINCE"} <= rows
    root = variables.PAGE.parents[1]
    pages = [*root.glob("docs/*.md"), *root.glob("*.md"), *(root / "harvest_assets").rglob("*.py")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    named = set(re.findall(r"\bHARVEST_[A-Z_]*[A-Z]\b", text))
    assert "HARVEST_SLURM_SETUP" in named
    named -= {asset.name for asset in Asset}
    assert named - rows <= {"HARVEST_REFERENCE_RUNS"}  # read by tests alone


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("HARVEST_KEEP", "some", StorageSettings.from_environment),
        ("HARVEST_ON_SHORTAGE", "cry", PreflightSettings.from_environment),
        ("HARVEST_AUTOMATION", "loud", UnattendedSettings.from_environment),
        ("HARVEST_MAX_ACTIVE_RUNS", "0", UnattendedSettings.from_environment),
        ("HARVEST_RETRY_SECONDS", "-1", UnattendedSettings.from_environment),
        ("HARVEST_WANDB_PROJECTS", "only-an-entity", WatchSettings.from_environment),
        ("HARVEST_WANDB_SECONDS", "soon", WatchSettings.from_environment),
    ],
)
def test_a_deployments_variables_are_named_too(
    variable: str, value: str, read: Callable[[], object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(HarvestError, match=f"^{variable} is '{value}'"):
        read()
