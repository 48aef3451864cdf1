"""What merging, writing, checking, compacting and reading one component cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.states import write_states
from benchmarks.watched import taken_by

_SAMPLED_EVERY = 0.005
_READS = 50


@dataclass(frozen=True)
class MergeSize:
    """What is merged.

    Args:
        n_shards: states.
        n_components: C.
        vocab_size: V.
        k: examples of each component in each state.
        silent: share of the components that never fired.
    """

    n_shards: int
    n_components: int
    vocab_size: int
    k: int
    silent: float = 0.0


@dataclass(frozen=True)
class MergeMeasured:
    """Seconds, seconds, bytes and bytes.

    Args:
        size: what was merged.
        seconds: of each step, of reads the median.
        cpu_seconds: of each step, all threads together.
        written: bytes of each file, and those that a merged state takes on the disk.
        peak_bytes: most memory that was neither a mapped file nor shared with one, by step.
    """

    size: MergeSize
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    written: dict[str, int]
    peak_bytes: dict[str, int]


def measure_merge(size: MergeSize, folder: Path | None = None) -> MergeMeasured:
    """Merge and write in a process of its own, then read.

    Args:
        size: what is merged.
        folder: of the states, which are made if they are not there; None: a temporary one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        states = write_states(place, **asdict(size))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.merging"],
            input=json.dumps([[str(s) for s in states], str(place / "merged")]),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            # So that the peak is what was in use.
            env={**os.environ, **_RETURN_FREED_MEMORY},
        )
        return MergeMeasured(size, *json.loads(done.stdout.splitlines()[-1]))


_RETURN_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


class _Peak:
    """The most memory of this process while a block runs, mapped files left out."""

    def __enter__(self) -> Self:
        self.bytes = taken_by("self")
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(_SAMPLED_EVERY):
            self.bytes = max(self.bytes, taken_by("self"))


class _Steps:
    """Times the steps of a merge, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        """Do a step and return its result."""
        with _Peak() as peak:
            start, cpu_start = time.perf_counter(), time.process_time()
            result = work()
            self.cpu_seconds[what] = time.process_time() - cpu_start
            self.seconds[what] = time.perf_counter() - start
        self.peaks[what] = peak.bytes
        return result


def _merge(states: list[Path], out: Path) -> tuple[dict[str, Any], ...]:
    from harvest_assets.files.commit import Value, publish_files
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.harvester.state import HarvesterState
    from harvest_assets.harvester.state_sum import StateSum
    from harvest_assets.results.components_jsonl import read_component
    from harvest_assets.results.count_tensors import CorrelationStorage
    from harvest_assets.results.merge import MergedContexts, MergedCorrelations, MergedTokenStats
    from harvest_assets.store.compaction import CompactedState
    from harvest_assets.store.verification import problems_of

    steps = _Steps()
    out.mkdir(parents=True, exist_ok=True)
    paths = HarvestLayout(out)
    total = steps.timed(
        "open, all bytes checked", lambda: StateSum(HarvesterState.load(s) for s in states)
    )
    values: dict[str, Value] = {
        "component_correlations.pt": MergedCorrelations(total, ""),
        "token_stats.pt": MergedTokenStats(total, ""),
        "components.jsonl": MergedContexts(total, "", {}, 40, total.settings.vocab_size),
    }
    for what, value in values.items():
        steps.timed(what, partial(publish_files, paths, value))
    steps.timed("files_agree", partial(problems_of, paths, deep=False))
    steps.timed("verify", partial(problems_of, paths))
    merged = out / "state"
    merged.mkdir(exist_ok=True)
    steps.timed("merged state", lambda: CompactedState(total, "", "", range(0)).write(merged))
    keys = total.settings.component_keys
    reads = []
    for key in keys[:: max(1, len(keys) // _READS)]:
        start = time.perf_counter()
        read_component(paths, key)
        reads.append(time.perf_counter() - start)
    steps.seconds["read one component"] = median(reads)
    steps.timed("open correlations", lambda: CorrelationStorage.load(paths.component_correlations))
    files = (paths.component_correlations, paths.token_stats, paths.components)
    written = {file.name: file.stat().st_size for file in files}
    written["merged state"] = sum(f.stat().st_blocks * 512 for f in merged.rglob("*"))
    return steps.seconds, steps.cpu_seconds, written, steps.peaks


if __name__ == "__main__":
    places, to = json.load(sys.stdin)
    print(json.dumps(_merge([Path(place) for place in places], Path(to))))
