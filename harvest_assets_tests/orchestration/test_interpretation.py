"""Scores and labels as assets."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.slurm.jobs import becomes_a_job
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.stages import ON_REQUEST, Asset
from harvest_assets_tests.autointerp.conftest import finished, paths  # noqa: F401 - fixtures
from harvest_assets_tests.autointerp.one_token_each import KEYS
from harvest_assets_tests.loopback_model import LoopbackModel, Request, Scripted
from harvest_assets_tests.tiny_harvest import TinyHarvest

SECRET = "sk-plantedPlantedPlanted"  # noqa: S105


def materialized(
    instance: dg.DagsterInstance,
    layout: HarvestLayout,
    name: str,
    *,
    key: str | None = None,
    **config: object,
) -> dg.ExecuteInProcessResult:
    key = key or f"local/tests/{layout.root.name}"
    add_run(instance, key)
    return dg.materialize(
        list(defs.assets),
        selection=[name],
        partition_key=key,
        instance=instance,
        run_config={"ops": {name: {"config": config}}},
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, name: str) -> dict[str, object]:
    assert result.success
    (event,) = result.asset_materializations_for_node(name)
    return {key: value.value for key, value in event.metadata.items()}


def answer(request: Request, _: int) -> Scripted:
    n = request.question.count("\n")
    if "verdicts" in request.instructions:
        return Scripted(json.dumps({"verdicts": [True] * n}))
    if "intruder" in request.instructions:
        return Scripted('{"intruder": 1}')
    return Scripted('{"label": "a token", "confidence": 0.9, "reason": "seen"}')


def test_scores_labels_and_their_scores(
    instance: dg.DagsterInstance,
    paths: HarvestLayout,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    result = materialized(instance, paths, "component_scores", baseline=True)
    found = metadata_of(result, "component_scores")
    assert found["mean intruder_tokens"] == 1.0
    assert found["calls"] == 0
    assert "svg" in found["intruder_tokens"]
    with LoopbackModel(answer) as server:
        config = {"endpoint": server.endpoint, "model": "scripted", "components": 2}
        prices = {"price_in": 1.0, "price_out": 1.0}
        results = {
            name: materialized(instance, paths, name, **config, **prices)
            for name in ("component_scores", "component_labels", "label_scores")
        }
    shown = {name: metadata_of(result, name) for name, result in results.items()}
    assert [shown[name]["calls"] for name in shown] == [20, 2, 20]
    assert [shown[name]["cost"] for name in shown] == pytest.approx([0.0022, 0.00022, 0.0022])
    assert shown["label_scores"]["mean detection"] == 0.5  # all verdicts alike
    assert shown["component_labels"]["settings"]["components"] == 2
    current = Interpretations(paths).current()
    assert {"score_intruder", "score_detection", "score_fuzzing"} < set(current.columns)
    assert sorted(current["component_key"]) == sorted(KEYS)
    events = [str(record) for record in instance.all_logs(results["label_scores"].run_id)]
    assert not any(SECRET in text for text in [*events, str(shown)])


@pytest.mark.parametrize("asset", ON_REQUEST)
def test_on_a_cluster_they_run_beside_the_daemon(asset: Asset):
    run = dg.DagsterRun(job_name="__ASSET_JOB", asset_selection=frozenset({asset_key(asset)}))
    assert not becomes_a_job(run, SlurmSettings(stages="all"))


@pytest.mark.slow
def test_a_real_harvest_is_scored_by_the_models_embeddings_too(tiny: TinyHarvest):
    tiny.harvest()
    before = {path: path.read_bytes() for path in tiny.layout.five_files}
    found = metadata_of(
        materialized(tiny.instance, tiny.layout, "component_scores", key=tiny.key, baseline=True),
        "component_scores",
    )
    assert {"mean intruder_tokens", "mean intruder_embeddings"} < set(found)
    assert "notes" not in found
    assert {path: path.read_bytes() for path in tiny.layout.five_files} == before


@pytest.mark.parametrize("asset", ON_REQUEST)
def test_unasked_they_end_well_and_make_nothing(
    instance: dg.DagsterInstance,
    paths: HarvestLayout,  # noqa: F811
    asset: Asset,
):
    result = materialized(instance, paths, asset.value)
    assert result.success
    assert not result.get_asset_materialization_events()
    assert not paths.interpretations.exists()


def test_a_model_without_an_endpoint_is_refused(
    instance: dg.DagsterInstance,
    paths: HarvestLayout,  # noqa: F811
):
    result = materialized(instance, paths, "component_labels", model="m")
    assert not result.success
    (failed,) = (event for event in result.all_events if event.is_step_failure)
    assert "endpoint" in failed.step_failure_data.user_failure_data.description
