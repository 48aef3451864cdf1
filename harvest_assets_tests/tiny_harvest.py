"""Harvesting the tiny run in this process, stage by stage, as Dagster runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from harvest_assets.definitions import defs
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.partitions import shard_partition
from harvest_assets.store.registry import register
from harvest_assets.wandb_client.run_name import parse_run

FINISHED = "finished"  # the folder of the harvest that tests share
SETTINGS = {
    "n_batches": 6,
    "batch_size": 8,
    "activation_examples_per_component": 12,
    "activation_context_tokens_per_side": 4,
    "pmi_token_top_k": 5,
    "seed": 0,
}


@dataclass(frozen=True)
class TinyHarvest:
    """One run on one instance."""

    instance: dg.DagsterInstance
    key: str
    layout: HarvestLayout

    @classmethod
    def of(
        cls,
        instance: dg.DagsterInstance,
        run: Path | str,
        out_name: str | None = None,
        name: str | None = None,
    ) -> TinyHarvest:
        registration = register(parse_run(str(run)), out_name, name)
        add_run(instance, registration.key)
        return cls(instance, registration.key, registration.layout)

    def stage(self, job: str, *, shard: str | None = None, **plan) -> dg.ExecuteInProcessResult:
        key = self.key if shard is None else shard_partition(self.key, shard)
        config = {"ops": {"harvest_plan": {"config": plan}}} if plan else {}
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=key, run_config=config, raise_on_error=False
        )

    def harvest(self, n_shards: int = 1, **settings) -> None:
        self.all_stages(n_shards, **{**SETTINGS, **settings})

    def all_stages(self, n_shards: int = 1, **settings) -> None:
        """Harvest with these settings, and the defaults for all others."""
        assert self.stage("prepare", n_shards=n_shards, **settings).success
        for shard in range(n_shards):
            assert self.stage("harvest", shard=f"{shard:02d}").success
        assert self.stage("merge").success


def sentence(result: dg.ExecuteInProcessResult) -> str:
    """The error of a stage that failed, as the UI shows it."""
    failure = next(event for event in result.all_events if event.is_step_failure)
    return failure.step_failure_data.user_failure_data.description
