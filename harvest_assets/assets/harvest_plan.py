"""The settings of a harvest: the one place where they are set."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import dagster as dg

from harvest_assets.data.data import DataSpec, fingerprint
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import markdown_cell
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags
from harvest_assets.orchestration.conditions import FOLLOW
from harvest_assets.orchestration.failures import RETRIES, refuses_bad_input
from harvest_assets.orchestration.harvest_config import PLAN_CONFIG
from harvest_assets.orchestration.partitions import registration, runs, shard_partition
from harvest_assets.orchestration.plan_changes import CHANGES
from harvest_assets.store.plan import HarvestPlan, default_n_shards
from harvest_assets.store.plan_change import change_of_plan
from harvest_assets.store.settings import HarvestConfig
from harvest_assets.store.shards import SHARD_KEYS
from harvest_assets.store.shared_rows import SharedTokenRows


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags("prepare", "none"),
    partitions_def=runs,
    kinds={"json"},
    code_version="1",
    automation_condition=FOLLOW,
    retry_policy=RETRIES,
    config_schema=PLAN_CONFIG,
)
@refuses_bad_input
def harvest_plan(
    context: dg.AssetExecutionContext, run_checkpoint: RunCheckpoint
) -> dg.MaterializeResult[Any]:
    """What is to be harvested and how; every shard and every merge reads it from here.

    Settings that the config omits stay as in the stored plan; without one they are the defaults.
    """
    paths = registration(context.partition_key).layout
    stored, config = settings_over_stored(paths, context.op_execution_context.op_config)
    plan = make_plan(run_checkpoint, config)
    run = run_checkpoint.config()
    if stored is not None:
        _check_rows(paths, plan, run.data_spec(plan.context_length))
    changes = {}
    if stored is not None and stored != plan:
        streaming = run.task_config.streaming
        changes = {CHANGES: change_of_plan(paths, stored, plan, streaming=streaming)}
        context.log.warning(changes[CHANGES])
    for warning in run.warnings(plan.ci_threshold):
        context.log.warning(warning)
    _report_empty_shares(context.instance, plan)
    settings = "\n".join(
        f"| {k} | {markdown_cell(v)} |" for k, v in dataclasses.asdict(plan).items()
    )
    return dg.MaterializeResult(
        value=plan,
        data_version=dg.DataVersion(plan.digest),
        metadata={
            "settings": dg.MetadataValue.md(f"| setting | value |\n|---|---|\n{settings}"),
            "plan": dg.MetadataValue.json(json.loads(json.dumps(dataclasses.asdict(plan)))),
            "shards": plan.n_shards,
            **({"notes": "\n\n".join(run.notes)} if run.notes else {}),
            **changes,
        },
    )


def _check_rows(paths: HarvestLayout, plan: HarvestPlan, spec: DataSpec) -> None:
    """Refuse a plan without a whole batch before it takes the place of the stored one.

    Raises:
        HarvestError: the rows that were harvested before, of the same data, are too few for it.
    """
    try:
        rows = SharedTokenRows.open(paths.root)
    except HarvestError:
        return
    n_wanted = plan.n_rows_wanted
    if plan.batches_seen(rows.n_rows) == 0 and rows.fingerprint == fingerprint(spec, n_wanted):
        plan.require_batches(rows.n_rows, rows.n_ctx, spec.dataset_name)


def settings_over_stored(
    paths: HarvestLayout, given: Mapping[str, Any]
) -> tuple[HarvestPlan | None, HarvestConfig]:
    """The stored plan, if there is one, and the settings that were given over those it has.

    Raises:
        HarvestError: the stored plan is needed and cannot be read.
    """
    stored = None
    if paths.plan.exists():
        try:
            stored = HarvestPlan.open(paths.root)
        except HarvestError as error:
            if set(HarvestConfig.model_fields) - set(given):
                raise HarvestError(
                    f"{paths.plan} cannot be read, so its settings cannot be kept; give all "
                    "settings of harvest_plan, or remove the file to begin with the defaults."
                ) from error
    kept = {name: getattr(stored, name) for name in HarvestConfig.model_fields} if stored else {}
    return stored, HarvestConfig.model_validate({**kept, **given})


def make_plan(checkpoint: RunCheckpoint, config: HarvestConfig) -> HarvestPlan:
    """Resolve the settings that depend on the run and on the machine.

    Raises:
        HarvestError: a setting is out of its range, or the context is longer than the model's.
    """
    context_length = config.context_length
    if context_length is None:
        context_length = checkpoint.default_context_length
    limit = checkpoint.max_context_length
    if limit is not None and context_length > limit:
        raise HarvestError(
            f"context_length is {context_length}, but the target model reads at most {limit} "
            "tokens; give a smaller --context_length."
        )
    return HarvestPlan(
        run=checkpoint.run,
        checkpoint_sha256=checkpoint.sha256,
        n_batches=config.n_batches,
        batch_size=config.batch_size,
        context_length=context_length,
        ci_threshold=config.ci_threshold,
        activation_examples_per_component=config.activation_examples_per_component,
        activation_context_tokens_per_side=config.activation_context_tokens_per_side,
        pmi_token_top_k=config.pmi_token_top_k,
        seed=config.seed,
        n_shards=default_n_shards() if config.n_shards is None else config.n_shards,
        ci_noise=config.ci_noise and checkpoint.config().sampling == "binomial",
        bf16=config.bf16,
    )


def _report_empty_shares(instance: dg.DagsterInstance, plan: HarvestPlan) -> None:
    """Mark the shards that the plan does not need, so that nobody waits for them."""
    for shard in SHARD_KEYS[plan.n_shards :]:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key="harvest_shard",
                partition=shard_partition(plan.run, shard),
                metadata={"share": f"empty: the plan has {plan.n_shards} shards"},
            )
        )
