"""The memory of Dagster's long-lived processes, over time."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harvest_assets.orchestration.dagster_private import DAEMON_MODULE

ROLES = {
    "daemon": DAEMON_MODULE,
    "webserver": "dagster_webserver",
    "code server": "code-server",
    "code server's child": "grpc",
}
_HEAD = ("seconds", "role", "pid", "uss_mb", "pss_mb", "threads", "open_files")


@dataclass(frozen=True)
class Sample:
    """The memory of one process at one moment; sizes in MB."""

    seconds: float
    role: str
    pid: int
    uss_mb: float
    pss_mb: float
    threads: int
    open_files: int


class MemorySampler(threading.Thread):
    """Writes a line per process into `path` each half minute, until `stop` is called.

    Args:
        path: the CSV file.
        root: answers the process whose descendants are measured; None while there is none.
        interval: seconds between two samples.
    """

    def __init__(
        self, path: Path, root: Callable[[], psutil.Process | None], interval: float = 30.0
    ) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._path, self._root, self._interval = path, root, interval
        self._stopped = threading.Event()
        self._began = time.monotonic()

    def run(self) -> None:
        with self._path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_HEAD)
            while not self._stopped.wait(self._interval):
                for role, process in roles(self._root()).items():
                    with suppress(psutil.Error):
                        sample = _measure(time.monotonic() - self._began, role, process)
                        self.samples.append(sample)
                        writer.writerow(
                            [
                                f"{v:.1f}" if isinstance(v, float) else v
                                for v in vars(sample).values()
                            ]
                        )
                file.flush()

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def roles(root: psutil.Process | None) -> dict[str, psutil.Process]:
    """The long-lived processes below this one, by role."""
    found: dict[str, psutil.Process] = {}
    with suppress(psutil.Error):
        for process in root.children(recursive=True) if root else ():
            with suppress(psutil.Error):
                command = process.cmdline()
                for role, word in ROLES.items():
                    if word in command:
                        found.setdefault(role, process)
                        break
    return found


def _measure(seconds: float, role: str, process: psutil.Process) -> Sample:
    memory = process.memory_full_info()
    return Sample(
        seconds,
        role,
        process.pid,
        memory.uss / 1e6,
        memory.pss / 1e6,
        process.num_threads(),
        process.num_fds(),
    )


def slopes(samples: list[Sample], since: float) -> dict[str, float]:
    """MB per hour of each role, by least squares over its last process after `since` seconds."""
    found = {}
    for role in ROLES:
        of_role = [sample for sample in samples if sample.role == role]
        points = [s for s in of_role if s.pid == of_role[-1].pid and s.seconds >= since]
        if len(points) < 3:
            continue
        mean_t = sum(s.seconds for s in points) / len(points)
        mean_m = sum(s.uss_mb for s in points) / len(points)
        above = sum((s.seconds - mean_t) * (s.uss_mb - mean_m) for s in points)
        found[role] = 3600 * above / sum((s.seconds - mean_t) ** 2 for s in points)
    return found


def draw(samples: list[Sample], path: Path) -> None:
    """A chart of the memory of each role."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for role in ROLES:
        points = [sample for sample in samples if sample.role == role]
        if points:
            minutes = [sample.seconds / 60 for sample in points]
            axes.plot(minutes, [sample.uss_mb for sample in points], label=role, linewidth=1.2)
    axes.set_xlabel("minutes")
    axes.set_ylabel("memory of its own (USS), MB")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path)
