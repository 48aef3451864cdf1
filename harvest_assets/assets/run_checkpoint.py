"""The files of a decomposition run: found or downloaded, opened, verified."""

from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import open_decomposition, verify
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import plain_text
from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, stage_tags, table
from harvest_assets.orchestration.conditions import BEGIN
from harvest_assets.orchestration.failures import RETRIES, refuses_bad_input
from harvest_assets.orchestration.harvest_config import CHECKPOINT_CONFIG
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.orchestration.wandb.retrained import newer_step
from harvest_assets.stages import Stage
from harvest_assets.store.one_go import require_one_go
from harvest_assets.store.registry import check_owner, claim_folder, require_named_here
from harvest_assets.wandb_client.run_files import fetch_run


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.PREPARE, "disk_and_network"),
    partitions_def=runs,
    kinds={"wandb", "torch"},
    code_version="1",
    automation_condition=BEGIN,
    retry_policy=RETRIES,
    config_schema=CHECKPOINT_CONFIG,
)
@refuses_bad_input
def run_checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """Config and checkpoint of the run, verified to make a model.

    They are taken from the run cache or downloaded from W&B. The data version is their digest.
    """
    owner = registration(context.partition_key)
    check_owner(owner)
    require_named_here(owner.key)
    stored = _stored(owner.layout)
    checkpoint = verify(fetch_run(owner.reference, _step(context, stored)))
    require_one_go(checkpoint, owner.layout)
    if stored is not None and stored.sha256 != checkpoint.sha256:
        context.log.warning(
            "The checkpoint changes from %s to %s; statistics of the first cannot be added to "
            "those of the second.",
            _described(stored),
            _described(checkpoint),
        )
    if stored is not None:
        _check_tokenizer(stored, checkpoint)
    owner.layout.check_links()
    owner.layout.root.mkdir(parents=True, exist_ok=True)
    claim_folder(owner)
    _keep_tokenizer(context, checkpoint, owner.layout)
    layers = [(plain_text(layer), c) for layer, c in checkpoint.layers]
    return dg.MaterializeResult(
        value=checkpoint,
        data_version=dg.DataVersion(checkpoint.sha256),
        metadata={
            "components": checkpoint.n_components,
            "layers": table(("layer", "C"), layers),
            "vocabulary": checkpoint.vocab_size,
            "kind": checkpoint.kind,
            "firing strength": checkpoint.firing_strength,
            "second value": checkpoint.second_value or "none",
            "step": checkpoint.step if checkpoint.step is not None else "unknown",
            "checkpoint": dg.MetadataValue.path(checkpoint.checkpoint_path),
            "config": dg.MetadataValue.path(checkpoint.config_path),
            "wandb": dg.MetadataValue.url(owner.reference.name.url)
            if owner.reference.path is None
            else str(owner.reference.path),
        },
    )


def _stored(paths: HarvestLayout) -> Decomposition | None:
    """The checkpoint harvested before; None if there is none, or its description is damaged."""
    try:
        return open_decomposition(paths.root)
    except HarvestError:
        return None


def _step(context: dg.AssetExecutionContext, stored: Decomposition | None) -> int | None:
    """The requested step, a newer one that was observed, or the one harvested before.

    None is the newest.
    """
    config = context.op_execution_context.op_config
    step = config.get("step") or newer_step(context.instance, context.partition_key)
    if step is None and "step" not in config and stored is not None:
        return stored.step if Path(stored.checkpoint_path).exists() else None
    return step


def _check_tokenizer(stored: Decomposition, checkpoint: Decomposition) -> None:
    """Refuse a different tokenizer that the run's name for it resolves to in this folder.

    Raises:
        HarvestError: the run is the same, and its tokenizer is not the one harvested with.
    """
    before, here = stored.tokenizer.sha256, checkpoint.tokenizer.sha256
    if stored.sha256 != checkpoint.sha256 or None in (before, here) or before == here:
        return
    raise HarvestError(
        f"The tokenizer {checkpoint.tokenizer.name!r} is {_of_tokenizer(checkpoint)}, but this "
        f"harvest was made with {_of_tokenizer(stored)}. Run the command in a folder where the "
        "name refers to the latter, or give an --out-name for a harvest with the former."
    )


def _keep_tokenizer(
    context: dg.AssetExecutionContext, checkpoint: Decomposition, paths: HarvestLayout
) -> None:
    """Store a copy of the tokenizer with the results; the harvest can do without one."""
    try:
        reason = (
            None if checkpoint.tokenizer.keep(paths.tokenizer) else "it reads back differently."
        )
    except HarvestError as error:
        reason = str(error)
    if reason is not None:
        context.log.warning("No copy of the tokenizer is kept with the results: %s", reason)


def _of_tokenizer(checkpoint: Decomposition) -> str:
    tokenizer = checkpoint.tokenizer
    digest = str(tokenizer.sha256)[:12]
    return f"{tokenizer.folder or 'from the hub'} (digest {digest})"


def _described(checkpoint: Decomposition) -> str:
    return f"{Path(checkpoint.checkpoint_path).name} ({checkpoint.sha256[:8]})"
