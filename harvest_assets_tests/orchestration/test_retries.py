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

# Is told to end while it imports a library of the step that tokenizes.
INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "pandas._libs.tslibs.timestamps" and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Interrupting())
"""


def test_only_what_may_pass_is_tried_again(tmp_path: Path, tiny_run: Path):
    """Where a service does not answer, twice as often as other errors."""
    cache = tmp_path / "out/runs"
    shutil.copytree(tiny_run, cache / "proj-s-00000001")
    damaged = cache / "proj-s-00000001/model_100.pth"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    files = {file.name: file.read_bytes() for file in tiny_run.iterdir()}
    with LoopbackWandb() as server:
        for number in (2, 3):
            server.add_run(f"ent/proj/s-0000000{number}", files)
        refusals = iter([503, 403])

        def refused(operation: str) -> int | None:
            """The second run's first two attempts, and all of the third's."""
            is_prepared = any((tmp_path / "out/harvest").glob("*/token_rows.json"))
            return next(refusals, 503 if is_prepared else None) if operation == "RunFiles" else None

        server.on_operation = refused
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                *(f"ent/proj/s-0000000{number}" for number in (1, 2, 3)),
            ],
            env={
                **os.environ,
                **server.environment,
                "WANDB_HTTP_TIMEOUT": "1",
                "SPD_OUT_DIR": str(tmp_path / "out"),
                "HARVEST_MAX_RETRIES": "1",
                "HARVEST_RETRY_SECONDS": "0",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    assert done.stdout.splitlines() == [
        "ent/proj/s-00000001 failed 0",
        "ent/proj/s-00000002 succeeded 2",
        "ent/proj/s-00000003 failed 2",
    ]


def test_a_step_that_is_interrupted_while_it_imports_is_tried_again(tmp_path: Path, tiny_run: Path):
    shutil.copytree(tiny_run, tmp_path / "out/runs/tiny-aaaaaaaa")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED + PROGRAM, "local/tiny/aaaaaaaa"],
        env={
            **os.environ,
            "SPD_OUT_DIR": str(tmp_path / "out"),
            "HARVEST_MAX_RETRIES": "1",
            "HARVEST_RETRY_SECONDS": "0",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert done.stdout.splitlines() == ["local/tiny/aaaaaaaa succeeded 1"]
