"""What may pass by itself is tried again; bad input never is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harvest_assets_tests.loopback_wandb import LoopbackWandb

PROGRAM = """
import sys
import dagster as dg
from harvest_assets.definitions import defs
with dg.DagsterInstance.ephemeral() as instance:
    for key in sys.argv[1:]:
        instance.add_dynamic_partitions("run", [key])
        result = defs.resolve_job_def("prepare").execute_in_process(
            instance=instance, partition_key=key, raise_on_error=False
        )
        again = [e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]
        print(key, "succeeded" if result.success else "failed", len(again))
"""


def test_only_what_may_pass_is_tried_again(tmp_path: Path, tiny_run: Path):
    cache = tmp_path / "out/runs"
    shutil.copytree(tiny_run, cache / "proj-s-00000001")
    damaged = cache / "proj-s-00000001/model_100.pth"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    files = {file.name: file.read_bytes() for file in tiny_run.iterdir()}
    with LoopbackWandb() as server:
        server.add_run("ent/proj/s-00000002", files)
        # The second run's first two attempts are refused.
        asked = iter([503, 403])
        server.on_operation = lambda name: next(asked, None) if name == "RunFiles" else None
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "ent/proj/s-00000001", "ent/proj/s-00000002"],
            env={
                **os.environ,
                **server.environment,
                "WANDB_HTTP_TIMEOUT": "1",
                "SPD_OUT_DIR": str(tmp_path / "out"),
                "HARVEST_MAX_RETRIES": "3",
                "HARVEST_RETRY_SECONDS": "0",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    assert done.stdout.split("\n")[:2] == [
        "ent/proj/s-00000001 failed 0",
        "ent/proj/s-00000002 succeeded 2",
    ]
