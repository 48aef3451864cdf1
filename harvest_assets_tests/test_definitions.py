"""The graph as the webserver and the daemon see it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dagster as dg

from harvest_assets.definitions import defs
from harvest_assets.orchestration import dagster_private
from harvest_assets.orchestration.harvest_config import CHECK_MACHINE
from harvest_assets.settings import HarvestSettings
from harvest_assets.stages import ON_REQUEST, Asset, Stage

UPSTREAM = {
    "run_checkpoint": set(),
    "harvest_plan": {"run_checkpoint"},
    "token_rows": {"harvest_plan", "run_checkpoint"},
    "harvest_shard": {"harvest_plan", "run_checkpoint", "token_rows"},
    "component_correlations": {"harvest_plan", "harvest_shard"},
    "token_stats": {"harvest_plan", "harvest_shard"},
    "component_scores": {"activation_contexts"},
    "component_labels": {"activation_contexts"},
    "label_scores": {"activation_contexts", "component_labels"},
}


def test_the_graph_is_the_one_that_is_documented():
    graph = defs.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert set(nodes) == {*UPSTREAM, "activation_contexts", "merged_state"} == set(Asset)
    for name, upstream in UPSTREAM.items():
        assert {key.to_user_string() for key in nodes[name].parent_keys} == upstream
    for name, node in nodes.items():
        assert node.code_version
        assert node.description
        assert node.owners
        assert node.kinds
        if name in ON_REQUEST:
            assert node.automation_condition is None
            assert not any(name in stage.assets for stage in Stage)
        else:
            assert name in Stage(node.tags["stage"]).assets
        assert node.tags["work"]
        assert node.group_name == "harvest"
        several = isinstance(node.partitions_def, dg.MultiPartitionsDefinition)
        assert several == (name == "harvest_shard")


def test_the_launchpad_describes_the_settings():
    node = defs.get_assets_def("harvest_plan").op
    settings = node.config_schema.as_field().config_type.fields
    assert set(settings) == {*HarvestSettings.model_fields, CHECK_MACHINE}
    assert all(field.description for field in settings.values())


def test_names_taken_from_dagsters_private_modules_exist():
    for name in dagster_private.__all__:
        it = getattr(dagster_private, name)
        assert isinstance(it, str) or it.__module__.startswith("dagster.")
    assert find_spec(dagster_private.DAEMON_MODULE)
    folder = Path(dagster_private.__file__).parents[1]
    users = {file for file in folder.rglob("*.py") if "dagster._" in file.read_text()}
    assert users == {Path(dagster_private.__file__)}


def test_automation_is_off_until_it_is_enabled():
    for variable, on in (("", False), ("1", True)):
        program = (
            "from harvest_assets.definitions import defs\n"
            "print([s.default_status.value for s in (*defs.sensors, *defs.schedules)])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HARVEST_AUTOMATION": variable},
        )
        assert done.stdout.count("RUNNING") == (2 if on else 0)
        assert done.stdout.count("STOPPED") == (1 if on else 3)
