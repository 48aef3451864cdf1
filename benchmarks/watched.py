"""Steps in processes of their own, whose time and memory are measured."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import psutil

_SAMPLED_EVERY = 0.05
_PART = "part "


@dataclass(frozen=True)
class Step:
    """What a step took.

    Args:
        what: its name.
        seconds: from its start to its end.
        cpu_seconds: of all its processes; None of an answer of a server.
        memory: bytes that its processes had together at most, mapped files left out.
        note: what came of it.
    """

    what: str
    seconds: float
    cpu_seconds: float | None
    memory: int
    note: str = ""


class StepError(Exception):
    """A step failed, or needed too much memory."""


@dataclass
class Steps:
    """Runs steps one after the other.

    Args:
        environment: of their processes.
        max_memory: bytes; a step that takes more is ended.
        done: called with each step.
    """

    environment: Mapping[str, str]
    max_memory: int
    done: Callable[[Step], None]

    def run(self, what: str, *arguments: str) -> None:
        """Run a Python command to its end; what it reports with `report_part` are steps too.

        Raises:
            StepError: it failed.
        """
        before, last = _cpu_of_children(), ""
        started = time.perf_counter()
        with self._process(*arguments) as (process, memory):
            for line in process.stdout or ():
                if line.startswith(_PART):
                    part = json.loads(line.removeprefix(_PART))
                    self.done(Step(memory=memory.take_peak(), **part))
                elif line.strip():
                    last = line.strip()
            status = process.wait()
            seconds, cpu = time.perf_counter() - started, _cpu_of_children() - before
            self.done(Step(what, seconds, cpu, memory.take_peak(), last[:100]))
            if status:
                raise StepError(f"{what} ended with status {status}. {memory.problem}")

    @contextmanager
    def server(self, *arguments: str) -> Iterator[Callable[[str, str], str]]:
        """A server that prints its address first; the function asks for a page and returns it.

        What is answered with 202 is asked for again. The first step includes the start of the
        server.

        Raises:
            StepError: the server ended.
        """
        started: float | None = time.perf_counter()
        with self._process(*arguments) as (process, memory):
            base = process.stdout.readline().split(" ")[0].rstrip("/") if process.stdout else ""

            def asked(what: str, address: str) -> str:
                nonlocal started
                begun, started = started or time.perf_counter(), None
                n, text = 0, ""
                while True:
                    n, sent = n + 1, time.perf_counter()
                    try:
                        status, text = _page(base + address)
                    except (OSError, ValueError, HTTPException) as error:
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(timeout=5)
                        if process.poll() is None:
                            raise
                        raise StepError(
                            f"{what}: the server ended with status {process.poll()}. "
                            f"{memory.problem}"
                        ) from error
                    if status != HTTPStatus.ACCEPTED:
                        break
                    time.sleep(0.2)
                now = time.perf_counter()
                waited = f", the last of {n} answers in {now - sent:.2f} s" if n > 1 else ""
                note = f"{len(text) / 1000:,.0f} kB{waited}"
                self.done(Step(what, now - begun, None, memory.take_peak(), note))
                return text

            try:
                yield asked
            finally:
                process.terminate()
                process.wait(timeout=60)

    @contextmanager
    def _process(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], _Memory]]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            text=True,
        )
        memory = _Memory(process.pid, self.max_memory)
        try:
            yield process, memory
        finally:
            memory.close()
            if process.poll() is None:
                process.kill()
                process.wait()


def _page(address: str) -> tuple[int, str]:
    with urlopen(address, timeout=600) as answer:  # noqa: S310
        return answer.status, str(answer.read(), "utf-8")


class _Memory:
    """Samples the memory of a process and its descendants: anonymous, and shared memory.

    Pages of mapped files can be taken back at any time, and are not counted.
    """

    def __init__(self, pid: int, most: int) -> None:
        self.problem = ""
        self._pid, self._most, self._peak = pid, most, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def take_peak(self) -> int:
        """The most bytes since the last call."""
        self._sample()
        peak, self._peak = self._peak, 0
        return peak

    def close(self) -> None:
        """Sample no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLED_EVERY):
            self._sample()

    def _sample(self) -> None:
        taken = sum(map(taken_by, _tree(self._pid)))
        self._peak = max(self._peak, taken)
        if taken > self._most:
            self.problem = f"It had {taken:,} bytes of memory, more than {self._most:,}."
            for pid in _tree(self._pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def taken_by(pid: int | str) -> int:
    """Bytes of anonymous and shared memory of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem"))
    )


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def reported_part(what: str) -> Iterator[None]:
    """Report what a block of a command takes to the process that runs the command as a step."""
    started, cpu = time.perf_counter(), time.process_time()
    yield
    part = {
        "what": what,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }
    print(_PART + json.dumps(part), flush=True)
