"""Keeps Dagster's telemetry off, with or without a `dagster.yaml` and whatever it says.

Where it is on, Dagster writes `~/.dagster` at every run and fails the run if it cannot. It has no
environment variable that turns it off.
"""

from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

_get_ref = dg.DagsterInstance.get_ref


def _is_off(_instance: dg.DagsterInstance) -> bool:
    return False


def _ref_with_telemetry_off(instance: dg.DagsterInstance) -> Any:
    ref = _get_ref(instance)
    return ref._replace(settings={**ref.settings, "telemetry": {"enabled": False}})


def keep_telemetry_off() -> None:
    """Turn telemetry off in this process and in those to which Dagster passes its instance.

    Those are the webserver, the daemon and the code servers of `dagster dev`, and the processes of
    runs that they launch.
    """
    dg.DagsterInstance.telemetry_enabled = property(_is_off)  # type: ignore[assignment, method-assign]
    dg.DagsterInstance.get_ref = _ref_with_telemetry_off  # type: ignore[assignment, method-assign]


def run_dagster(arguments: Sequence[str]) -> None:
    """Run the `dagster` command in this process, without telemetry or advice.

    Args:
        arguments: of the command, such as `dev`.
    """
    keep_telemetry_off()
    # Dagster recommends its newer command, `dg`.
    warnings.filterwarnings("ignore", category=dg.SupersessionWarning)
    sys.argv = ["dagster", *arguments]
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
