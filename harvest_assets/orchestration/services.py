"""`dagster dev` that ends with all its services when its terminal is closed.

`python -m harvest_assets.orchestration.services dev ...`. On SIGHUP `dagster dev` itself would end
and leave webserver, daemon and code server running.
"""

from __future__ import annotations

import os
import runpy
import signal
from types import FrameType

import psutil

_SECONDS = 2.0


def _end(number: int, _frame: FrameType | None) -> None:
    """End at once if the services got the signal too; else let Dagster end them in good order."""
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_SECONDS)
    if not alive:  # Dagster would wait a minute for their answer
        os._exit(128 + number)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _end)
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
