"""Whole harvests of the largest sizes, from the states of their shards to pages and prompts.

The states hold random numbers that agree with each other. They are written by the store, and what
merges and reads them is the program's own, each step in processes of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.states import CONTEXT_LENGTH, layers_of, random_state, rows_of_shard
from benchmarks.watched import Step, Steps, reported_part

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.store.shards import ShardResult

NAME = "x-aaaaaaaa"
_RUN = f"local/sizes/{NAME}"
_BATCH = 256
_PAGES = 20


@dataclass(frozen=True)
class Size:
    """A harvest.

    Args:
        n_shards: shards.
        n_components: C.
        vocab_size: V.
        k: examples of each component that fired, in each shard and in the results.
        silent: share of the components that never fired.
        disk: bytes that must be free.
        max_memory: bytes that the processes of a step may take.
    """

    n_shards: int
    n_components: int
    vocab_size: int
    k: int
    silent: float
    disk: int
    max_memory: int = 8 << 30


SIZES = {
    # Most components never fired, so that files have holes.
    "a": Size(16, 40_000, 50_000, 1000, 0.95, 55 << 30),
    # All fired.
    "b": Size(4, 12_000, 50_000, 200, 0.0, 62 << 30),
    # The same with a tenth of the components.
    "a-tenth": Size(16, 4_000, 50_000, 1000, 0.95, 8 << 30),
    "b-tenth": Size(4, 1_200, 50_000, 200, 0.0, 8 << 30),
    # The examples of one component are a million tokens.
    "examples": Size(2, 8, 2_000, 48_000, 0.0, 4 << 30),
    "tiny": Size(3, 40, 100, 30, 0.5, 1 << 30),
}


@dataclass(frozen=True)
class SizeMeasured:
    """Steps in order, and the most bytes of the disk that were taken."""

    size: Size
    steps: list[Step]
    disk: int


def measure_size(
    name: str, folder: Path, watch: Callable[[Step], None] = lambda _: None
) -> SizeMeasured:
    """Make and read a harvest, in a folder that becomes `SPD_OUT_DIR` and is left as it is then.

    Args:
        name: one of `SIZES`.
        folder: new or empty.
        watch: called with each step when it is done.

    Raises:
        SystemExit: the disk has too little room, or the folder is not empty.
        StepError: a step failed, or took more memory than the size allows.
    """
    size = SIZES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} is not empty; give a new folder.")
    free = shutil.disk_usage(folder).free
    if free < size.disk:
        sys.exit(f"{folder} has {free:,} bytes free; {size.disk:,} are needed.")
    done: list[Step] = []

    def add(step: Step) -> None:
        done.append(step)
        watch(step)

    environment = {
        **os.environ,
        "SPD_OUT_DIR": str(folder),
        "HOME": str(folder / "home"),
        "DAGSTER_HOME": str(folder / "dagster"),
        # Huge pages around a few rows would fill the memory of those between them.
        "NUMPY_MADVISE_HUGEPAGE": "0",
    }
    with _LeastFree(folder) as least:
        _measure(name, folder, Steps(environment, size.max_memory, add))
    return SizeMeasured(size, done, free - least.free)


def _measure(name: str, folder: Path, steps: Steps) -> None:
    ours, command = ("-m", "benchmarks.sizes"), ("-m", "harvest_assets")
    steps.run("states of all shards", *ours, "write", name)
    steps.run("merge, all of it", *ours, "merge", name)
    steps.run("verify", *command, "verify", NAME)
    steps.run("loaders and open, all of it", *ours, "read", name)
    steps.run("list", *command, "list")
    steps.run("status", *command, "status", NAME)
    steps.run("label --dry-run", *command, "label", NAME, "--dry-run")
    prompts = str(folder / "prompts.jsonl")
    steps.run("label --export", *command, "label", NAME, "--export", prompts)
    view = (*command, "view", NAME, "--no-browser", "--port", "0")
    with steps.server(*view) as ask:
        summary = folder / "harvest" / NAME / "activation_contexts" / "summary.json"
        alive = list(json.loads(summary.read_bytes()))
        _pages(ask, alive[:: -(-len(alive) // _PAGES)])


def _pages(ask: Callable[[str, str], str], keys: list[str]) -> None:
    page, api = f"/run/{NAME}", f"/api/run/{NAME}"
    ask("view: from the command to the first answer", page)
    ask("view: the table by another column", f"{page}?sort=density&reverse=1")
    ask("view: a token searched in the table", f"{page}?token=w17")
    ask("view: a component searched in the table", f"{page}?q=c_fc:1")
    ask("view: the table as CSV", f"{page}/table.csv")
    for key in keys:
        ask("view: a component", f"{page}/component/{key}")
    for key in keys:
        ask("view: a component as JSON", f"{api}/component/{key}")
    ask("view: index of contexts", f"{api}/contexts?q=w17")
    ask("view: contexts of a text", f"{page}/contexts?q=w123")
    ask("view: contexts of a frequent text", f"{page}/contexts?q=w1")
    ask("view: map", f"{api}/map")
    ask("view: page of the map", f"{page}/map")
    ask("view: all harvests", "/harvests")


class _LeastFree:
    """The least free room of a disk while a block runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._over = folder, threading.Event()
        self.free = shutil.disk_usage(folder).free

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.free = min(self.free, shutil.disk_usage(self._folder).free)


def _plan(size: Size) -> Any:
    from harvest_assets.store.plan import HarvestPlan

    return HarvestPlan(
        run=_RUN,
        checkpoint_sha256="0" * 64,
        n_batches=size.n_shards * rows_of_shard(size.vocab_size) // _BATCH,
        batch_size=_BATCH,
        context_length=CONTEXT_LENGTH,
        activation_examples_per_component=size.k,
        n_shards=size.n_shards,
    )


def _checkpoint(size: Size) -> Any:
    """The record of a checkpoint that is not there, which no reader of results opens."""
    from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint

    folder = Path(os.environ["SPD_OUT_DIR"])
    return RunCheckpoint(
        run=_RUN,
        config_path=str(folder / "final_config.yaml"),
        checkpoint_path=str(folder / "model_1.pth"),
        step=1,
        sha256="0" * 64,
        layers=layers_of(size.n_components),
        vocab_size=size.vocab_size,
        max_context_length=CONTEXT_LENGTH,
        default_context_length=CONTEXT_LENGTH,
        tokenizer_name=str(folder / "tokenizer"),
        tokenizer_vocab_size=size.vocab_size,
    )


def _write(size: Size) -> None:
    """Write the plan, and the states of the shards as their asset does."""
    from benchmarks.large_run import write_tokenizer
    from harvest_assets.files.commit import publish_files
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.store.shards import SHARD_KEYS, ShardResult, Work
    from harvest_assets.store.shared_rows import SharedTokenRows

    paths, plan = HarvestLayout.of(NAME), _plan(size)
    write_tokenizer(Path(os.environ["SPD_OUT_DIR"]) / "tokenizer", size.vocab_size)
    n_rows = plan.n_batches * plan.batch_size
    for value in (plan, SharedTokenRows("f" * 32, n_rows, CONTEXT_LENGTH), _checkpoint(size)):
        publish_files(paths, value)
    work = Work.of(paths, plan)
    for name in SHARD_KEYS[: size.n_shards]:
        empty = ShardResult(plan.digest, work.compatibility_digest, name, work.share(name), None)
        _write_shard(size, paths, empty)


def _write_shard(size: Size, paths: HarvestLayout, empty: ShardResult) -> None:
    from harvest_assets.files.lease import hold_lease
    from harvest_assets.store.shards import commit_shard

    with reported_part("make the state of a shard"):
        state = random_state(
            int(empty.shard), size.n_components, size.vocab_size, size.k, size.silent
        )
    with (
        reported_part("save the state of a shard"),
        hold_lease(paths.shard_lease(empty.shard), f"Shard {empty.shard}"),
    ):
        commit_shard(paths, replace(empty, state=state))


def _merge(size: Size) -> None:
    """Sum and publish as the assets of the merge do, one after the other."""
    from harvest_assets.files.commit import Value, publish_files
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.files.lease import hold_lease
    from harvest_assets.results.merge import MergedContexts, MergedCorrelations, MergedTokenStats
    from harvest_assets.store.compaction import compact
    from harvest_assets.store.shards import ShardResults
    from harvest_assets.store.verification import problems_of

    paths, plan = HarvestLayout.of(NAME), _plan(size)
    with hold_lease(paths.merge_lease, "The merge"):
        with reported_part("merge: open, all bytes checked"):
            total = ShardResults(paths).open(plan)
        config = {
            **plan.flat(),
            "wandb_path": _RUN,
            "n_tokens": total.total_tokens_processed,
            "tokenizer_name": str(Path(os.environ["SPD_OUT_DIR"]) / "tokenizer"),
        }
        top_k = plan.pmi_token_top_k
        values: dict[str, Value] = {
            "component_correlations.pt": MergedCorrelations(total, plan.digest),
            "token_stats.pt": MergedTokenStats(total, plan.digest),
            "components.jsonl": MergedContexts(total, plan.digest, config, top_k, size.vocab_size),
        }
        for what, value in values.items():
            with reported_part(f"merge: {what}"):
                publish_files(paths, value)
        with reported_part("merge: files_agree"):
            problems = problems_of(paths, deep=False)
        if problems:
            sys.exit(" ".join(problems))
        with reported_part("merge: merged state, shards removed"):
            compact(paths, plan, "merged")


def _read(_size: Size) -> None:
    """What a person in a notebook reads."""
    import harvest_assets
    from harvest_assets import analysis, loaders

    with reported_part("load_activation_contexts_summary"):
        summary = loaders.load_activation_contexts_summary(NAME)
    key = next(iter(summary or {}))
    with reported_part("load_activation_context_single"):
        loaders.load_activation_context_single(NAME, key)
    with reported_part("load_correlations, correlated components"):
        if counts := loaders.load_correlations(NAME):
            analysis.get_correlated_components(counts, key, "jaccard", 20)
    with reported_part("load_token_stats, a component's tokens"):
        if tokens := loaders.load_token_stats(NAME):
            tokens.output_counts[tokens.component_keys.index(key)].sum()
    with reported_part("load_components_frame"):
        loaders.load_components_frame(NAME)
    with reported_part("harvest_assets.open, a component's examples"):
        repr(harvest_assets.open(NAME)[key].examples)


if __name__ == "__main__":
    {"write": _write, "merge": _merge, "read": _read}[sys.argv[1]](SIZES[sys.argv[2]])
