"""`dagster dev` that ends its webserver, daemon and code server when its terminal is closed.

`python -m harvest_assets.orchestration.services dev ...`. On SIGHUP `dagster dev` would end alone, or,
where its children got the signal too, wait a minute for them to answer.
"""

from __future__ import annotations

import os
import runpy
import signal
from contextlib import suppress
from types import FrameType

import psutil

_SECONDS_TO_END = 20.0


def _end(number: int, _frame: FrameType | None) -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    psutil.wait_procs(children, timeout=_SECONDS_TO_END)
    os._exit(128 + number)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _end)
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
