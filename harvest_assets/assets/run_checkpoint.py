"""The files of an SPD run: found or downloaded, opened, verified."""

from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import markdown_cell
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags
from harvest_assets.orchestration.conditions import BEGIN
from harvest_assets.orchestration.failures import RETRIES, refuses_bad_input
from harvest_assets.orchestration.harvest_config import CHECKPOINT_CONFIG
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.orchestration.wandb.retrained import newer_step
from harvest_assets.store.registry import check_owner
from harvest_assets.wandb_client.run_files import fetch_run


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags("prepare", "disk_and_network"),
    partitions_def=runs,
    kinds={"wandb", "torch"},
    code_version="1",
    automation_condition=BEGIN,
    retry_policy=RETRIES,
    config_schema=CHECKPOINT_CONFIG,
)
@refuses_bad_input
def run_checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """Config and checkpoint of the SPD run, verified to make a model.

    They are taken from the run cache or downloaded from W&B. The data version is their digest.
    """
    owner = registration(context.partition_key)
    check_owner(owner)
    stored = _stored(owner.layout)
    checkpoint = RunCheckpoint.verify(fetch_run(owner.reference, _step(context, stored)))
    if stored is not None and stored.sha256 != checkpoint.sha256:
        context.log.warning(
            "The checkpoint changes from %s to %s; what was harvested of the first does not add up "
            "with the second.",
            _described(stored),
            _described(checkpoint),
        )
    if stored is not None:
        _check_tokenizer(stored, checkpoint)
    layers = "\n".join(f"| {markdown_cell(layer)} | {c:,} |" for layer, c in checkpoint.layers)
    return dg.MaterializeResult(
        value=checkpoint,
        data_version=dg.DataVersion(checkpoint.sha256),
        metadata={
            "components": checkpoint.n_components,
            "layers": dg.MetadataValue.md(f"| layer | C |\n|---|---|\n{layers}"),
            "vocabulary": checkpoint.vocab_size,
            "step": checkpoint.step if checkpoint.step is not None else "not told",
            "checkpoint": dg.MetadataValue.path(checkpoint.checkpoint_path),
            "config": dg.MetadataValue.path(checkpoint.config_path),
            "wandb": dg.MetadataValue.url(owner.reference.name.url)
            if owner.reference.path is None
            else str(owner.reference.path),
        },
    )


def _stored(paths: HarvestLayout) -> RunCheckpoint | None:
    """The checkpoint harvested before; None if there is none, or its description is damaged."""
    try:
        return RunCheckpoint.open(paths.root)
    except HarvestError:
        return None


def _step(context: dg.AssetExecutionContext, stored: RunCheckpoint | None) -> int | None:
    """The step that was asked for, a newer one that was observed, or the one harvested before.

    None is the newest.
    """
    config = context.op_execution_context.op_config
    step = config.get("step") or newer_step(context.instance, context.partition_key)
    if step is None and "step" not in config and stored is not None:
        return stored.step if Path(stored.checkpoint_path).exists() else None
    return step


def _check_tokenizer(stored: RunCheckpoint, checkpoint: RunCheckpoint) -> None:
    """Refuse another tokenizer that the run's name for it opens in this folder.

    Raises:
        HarvestError: the run is the same, and its tokenizer is not the one harvested with.
    """
    before, here = stored.tokenizer_sha256, checkpoint.tokenizer_sha256
    if stored.sha256 != checkpoint.sha256 or None in (before, here) or before == here:
        return
    raise HarvestError(
        f"The tokenizer {checkpoint.tokenizer_name!r} is another one than this harvest was made "
        f"with: there it was {_of_tokenizer(stored)}, here it is {_of_tokenizer(checkpoint)}. Give "
        "the command in the folder in which the name leads to the first, or an --out-name for a "
        "harvest with the second."
    )


def _of_tokenizer(checkpoint: RunCheckpoint) -> str:
    digest = str(checkpoint.tokenizer_sha256)[:12]
    return f"{checkpoint.tokenizer_path or 'from the hub'} (digest {digest})"


def _described(checkpoint: RunCheckpoint) -> str:
    return f"{Path(checkpoint.checkpoint_path).name} ({checkpoint.sha256[:8]})"
