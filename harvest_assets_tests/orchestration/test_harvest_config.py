from __future__ import annotations

import re

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.harvest_config import PLAN_CONFIG
from harvest_assets.settings import HarvestSettings
from harvest_assets_tests.tiny_harvest import TinyHarvest, sentence


def test_the_launchpad_shows_every_setting_with_its_description_and_default():
    assert PLAN_CONFIG.keys() == HarvestSettings.model_fields.keys()
    for name, field in HarvestSettings.model_fields.items():
        shown = PLAN_CONFIG[name]
        assert not shown.is_required
        assert not shown.default_provided  # the asset must see what was given
        begin = str(field.description).partition("omitted:")[0]
        assert shown.description.startswith(begin)
        assert field.default is None or f"A new plan has {field.default}." in shown.description
        is_nullable = isinstance(shown.config_type, dg.Noneable)
        assert is_nullable == (field.default is None)


def test_the_launchpad_says_which_values_are_accepted():
    said = set()
    for name, field in PLAN_CONFIG.items():
        found = re.search(r"(?:From|At least) (-?\d+)(?: to (\d+))?\.(?: |$)", field.description)
        if found is None:
            continue
        said.add(name)
        lowest, highest = (None if end is None else int(end) for end in found.groups())
        HarvestSettings(**{name: lowest})
        with pytest.raises(HarvestError, match=name):
            HarvestSettings(**{name: lowest - 1})
        if highest is not None:
            HarvestSettings(**{name: highest})
            with pytest.raises(HarvestError, match=name):
                HarvestSettings(**{name: highest + 1})
    without_bounds = {"layers", "cooccurrence", "ci_noise", "bf16"}
    assert said == HarvestSettings.model_fields.keys() - without_bounds


def filled_in(tiny: TinyHarvest) -> dict:
    """The config that the launchpad of `prepare` shows when the run is chosen."""
    return defs.resolve_job_def("prepare").get_run_config_for_partition_key(tiny.key)


def test_the_launchpad_is_filled_in_with_the_plan_of_the_run(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "4")
    monkeypatch.setenv("HARVEST_LAYERS", "h.0.*")
    new = filled_in(tiny)["ops"]["harvest_plan"]["config"]
    assert new.keys() == HarvestSettings.model_fields.keys()
    assert (new["batch_size"], new["layers"], new["n_batches"]) == (4, ["h.0.*"], None)

    given = {"n_batches": 3, "batch_size": 8, "layers": ["h.1.*"], "seed": 5, "n_shards": 2}
    assert tiny.stage("prepare", **given, context_length=12).success
    stored, plan = filled_in(tiny), tiny.layout.plan.read_bytes()
    shown = stored["ops"]["harvest_plan"]["config"]
    assert {name: shown[name] for name in given} == given
    assert (shown["context_length"], shown["ci_threshold"]) == (12, 1e-6)
    assert tiny.stage("prepare", **shown).success
    assert tiny.layout.plan.read_bytes() == plan


def test_the_launchpad_is_empty_where_nothing_is_known(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "none")
    assert filled_in(tiny)["ops"]["harvest_plan"]["config"] == {}


def test_variables_are_read_when_a_plan_is_made(tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "none")
    failed = tiny.stage("prepare", n_batches=2)
    assert not failed.success
    assert sentence(failed).startswith("HARVEST_BATCH_SIZE is 'none'")
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "8")
    assert tiny.stage("prepare", n_batches=2).success
    monkeypatch.setenv("HARVEST_BATCH_SIZE", "4")  # the stored plan comes before
    assert tiny.stage("prepare").success
    assert '"batch_size": 8' in tiny.layout.plan.read_text()
