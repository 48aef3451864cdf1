"""A whole harvest by the command, stage by stage, as Dagster recorded it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.stages import StagesMeasured
from harvest_assets.errors import HarvestError


def measure_command(run: Path, settings: dict[str, Any], device: str, home: Path) -> StagesMeasured:
    """Harvest a run with the command and read when its runs and their steps began and ended.

    The time between them is that of starting processes, and of the command's own work.

    Args:
        run: its folder.
        settings: of `HarvestSettings`.
        device: cpu or cuda.
        home: an empty folder for Dagster's records.

    Raises:
        HarvestError: the command failed.
    """
    options = [f"--{name}={value}" for name, value in settings.items()]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "harvest_assets", str(run), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    ended = time.time()
    if done.returncode:
        raise HarvestError(f"The command ended with status {done.returncode}:\n{done.stderr}")
    return _stages(f"{run}, by the command, on {device}", home, started, ended)


def _stages(what: str, home: Path, started: float, ended: float) -> StagesMeasured:
    import dagster as dg

    measured = StagesMeasured(what)
    until = started
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        records = sorted(instance.get_run_records(), key=lambda it: it.start_time or 0.0)
        for record in records:
            run = record.dagster_run
            before = f"before {run.job_name}: processes, imports"
            measured.add(before, max(0.0, (record.start_time or until) - until))
            until = max(until, record.start_time or until)
            steps = instance.get_run_step_stats(run.run_id)
            for step in sorted(steps, key=lambda it: it.start_time or 0.0):
                # Shards work side by side: what one takes longer than those before it counts.
                if step.end_time is not None:
                    measured.add(step.step_key, max(0.0, step.end_time - until))
                    until = max(until, step.end_time)
    measured.add("end of the command", ended - until)
    return measured
