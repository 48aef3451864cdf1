from __future__ import annotations

import dagster as dg
import pytest

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
