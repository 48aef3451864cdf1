"""Signals that stop a program, in small processes of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest

STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

PROGRAM = """
import sys, time
from harvest_assets.system.stopping import *
try:
    with interrupted_by_signals():
        {body}
except KeyboardInterrupt:
    last_words("Stopped.")
    sys.exit(exit_status())
"""
WAIT = """print("ready", flush=True); time.sleep(30)"""
HOLD = """
        try:
            with interrupts_held():
                print("ready", flush=True); time.sleep(0.4); print("saved", flush=True)
            print("missed")
        finally:
            with interrupts_held():
                print("ready", flush=True); time.sleep(0.4); print("ended", flush=True)
"""


def start(body: str, before: Callable[[], object] = lambda: None, stderr: int = subprocess.PIPE):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=before,  # noqa: PLW1509  there are no threads
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", STATUSES)
def test_each_signal_stops_and_gives_its_status(number: signal.Signals):
    process = start(WAIT)
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", "Stopped.\n")
    assert process.returncode == STATUSES[number]


def test_an_ignored_hangup_stays_ignored():
    process = start(WAIT, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    process.terminate()
    assert process.communicate(timeout=20) == ("", "Stopped.\n")
    assert process.returncode == 143


def test_what_is_held_runs_to_its_end_whatever_comes():
    process = start(HOLD)
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "saved\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("ended\n", "Stopped.\n")
    assert process.returncode == 129


def test_the_status_is_right_where_nobody_reads_stderr():
    reading, writing = os.pipe()
    process = start(WAIT, stderr=writing)
    os.close(reading)
    os.close(writing)
    process.terminate()
    assert process.wait(timeout=20) == 143


def test_a_closed_terminal_is_a_hangup():
    terminal, side = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)

    process = start(WAIT, take_terminal, stderr=side)
    os.close(side)
    os.close(terminal)
    assert process.wait(timeout=20) == 129
