"""`dagster dev` in this process, ended where its page cannot be reached.

Dagster starts a webserver and a daemon. A webserver that finds its port taken neither serves nor
ends, and the daemon would go on without a page. Both would also go on without the process that has
the code: where it dies and its parent lives, nothing starts it again. On SIGHUP it would end alone,
or, where its children got the signal too, wait a minute for them to answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import psutil

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.dagster_private import CODE_SERVER_WORDS, DAEMON_MODULE
from harvest_assets.orchestration.telemetry import run_dagster
from harvest_assets.system.ports import check_free, listening_processes

_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_TO_END = 20.0
_SECONDS_WITHOUT_CODE = 30.0


def run_dagster_dev(host: str, port: int, log_level: str = "info") -> int:
    """Serve the Dagster UI with its daemon until a signal ends it.

    Args:
        host: to listen on.
        port: a free one.
        log_level: of Dagster's own log: debug, info, warning, error or critical.

    Returns:
        The exit status: 0 after Ctrl-C, 143 after SIGTERM. After SIGHUP the process ends with 129.

    Raises:
        HarvestError: another process took the port meanwhile, the process that has the code ended,
            or Dagster ended by itself.
    """
    received: list[int] = []
    children: list[psutil.Process] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        children.extend(psutil.Process().children(recursive=True))
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _end_with_children)
    watches = (_PortWatch(host, port), _CodeWatch(received))
    for watch in watches:
        watch.start()
    with suppress(SystemExit, KeyboardInterrupt):
        place = ["-p", str(port), "-h", host, "--log-level", log_level]
        run_dagster(["dev", "-m", "harvest_assets.definitions", *place])
    psutil.wait_procs(children, timeout=_SECONDS_TO_END)  # code servers end a little later
    for watch in watches:
        if watch.problem:
            raise HarvestError(watch.problem)
    if not received:
        raise HarvestError("Dagster exited unexpectedly; see its output above.")
    return 0 if received[0] == signal.SIGINT else 128 + received[0]


def _end_with_children(number: int, _frame: FrameType | None) -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    psutil.wait_procs(children, timeout=_SECONDS_TO_END)
    os._exit(128 + number)


class _Watch(threading.Thread):
    """Interrupts the main thread for a problem, which is then an attribute."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.problem = ""

    def interrupt(self, problem: str) -> None:
        self.problem = problem
        os.kill(os.getpid(), signal.SIGINT)


class _PortWatch(_Watch):
    """Interrupts if another process listens where the webserver should.

    Args:
        host: of the webserver.
        port: of the webserver.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._host, self._port = host, port

    def run(self) -> None:
        """Check until the webserver listens."""
        problem = ""
        while True:
            time.sleep(_SECONDS_BETWEEN_CHECKS)
            ours = psutil.Process().children(recursive=True)
            if not any(_is_daemon(process) for process in ours):
                continue  # an interrupted start would leave processes
            before, problem = problem, self._problem()
            if any(process in ours for process in listening_processes(self._port)):
                return
            if problem and before:  # between two checks the webserver has begun to listen
                self.interrupt(problem)
                return

    def _problem(self) -> str:
        try:
            check_free(self._host, self._port)
        except HarvestError as error:
            return str(error)
        return ""


class _CodeWatch(_Watch):
    """Interrupts if the process that has the code ends and none takes its place.

    Args:
        received: the signals that are ending this process.
    """

    def __init__(self, received: list[int]) -> None:
        super().__init__()
        self._received = received

    def run(self) -> None:
        """Check until it is gone for a while."""
        gone_at = None
        while gone_at is None or time.monotonic() - gone_at < _SECONDS_WITHOUT_CODE:
            time.sleep(5 * _SECONDS_BETWEEN_CHECKS)
            ours = psutil.Process().children(recursive=True)
            if any(_has_in_command(process, CODE_SERVER_WORDS) for process in ours):
                gone_at = None
            elif gone_at is None and any(_is_daemon(process) for process in ours):
                gone_at = time.monotonic()
        if not self._received:
            self.interrupt("Dagster's code server ended unexpectedly; start this command again.")


def _is_daemon(process: psutil.Process) -> bool:
    return _has_in_command(process, [DAEMON_MODULE])


def _has_in_command(process: psutil.Process, words: Sequence[str]) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return all(word in command for word in words)
