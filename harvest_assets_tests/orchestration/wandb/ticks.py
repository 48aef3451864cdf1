"""Ticks of the sensor of new runs, and the runs that they see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import yaml

from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.orchestration.sensors import new_wandb_runs
from harvest_assets_tests.loopback_wandb import LoopbackWandb

PROJECT = "ent/proj"
CONFIG = yaml.safe_dump(
    {
        "module_info": [{"module_pattern": "h.*", "C": 4}],
        "pretrained_model_class": "transformers.GPT2LMHeadModel",
        "pretrained_model_name": "gpt2",
        "tokenizer_name": "gpt2",
        "task_config": {"task_name": "lm"},
    }
).encode()
FILES = {"final_config.yaml": CONFIG, "model_100.pth": b"weights"}
NOW = datetime.now(UTC).replace(microsecond=0)


class Ticks:
    """The sensor as the daemon calls it: its requests are carried out, its cursor is kept."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.requested: list[str] = []
        self.events: list = []

    def __call__(self) -> str:
        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            result = new_wandb_runs(context)
        for request in result.dynamic_partitions_requests or ():
            self.requested += request.partition_keys
            self.instance.add_dynamic_partitions(RUN_DIMENSION, list(request.partition_keys))
        self.events += result.asset_events
        self.cursor = result.cursor
        return result.skip_reason.skip_message

    @property
    def registered(self) -> set[str]:
        """The partitions; none was requested twice."""
        assert len(self.requested) == len(set(self.requested))
        return set(self.instance.get_dynamic_partitions(RUN_DIMENSION))


def add(server: LoopbackWandb, n: int, files=FILES, *, days_ago: float = 100, **details):
    """Run number `n`, created `days_ago` days ago, finished an hour later."""
    created = NOW - timedelta(days=days_ago)
    times = {
        "created_at": created.isoformat(),
        "heartbeat_at": (created + timedelta(hours=1)).isoformat(),
    }
    return server.add_run(key(n), files, **{**times, **details})


def just_ended(**time: float) -> str:
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


def key(n: int) -> str:
    return f"{PROJECT}/s-{n:08d}"


def inspected(server: LoopbackWandb) -> list[str]:
    return [variables["name"] for name, variables in server.operations if name == "RunFiles"]
