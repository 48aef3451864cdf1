"""Harvests in this process, for what exists only in its memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

from harvest_assets.errors import HarvestError
from harvest_assets.runners.staged import StagedRunner, StageRun
from harvest_assets.runners.worker import execute
from harvest_assets.store.registry import Registration

_POLL_SECONDS = 0.5
# Dagster would print every event; all are in its database.
_SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class InProcessRunner(StagedRunner):
    """Executes all stages in this process, shards one after another.

    Args:
        instance: where runs and materializations are recorded.
    """

    shards_are_here = True

    def execute(
        self,
        registration: Registration,  # noqa: ARG002
        stage_runs: Sequence[StageRun],
        poll: Callable[[], None],
    ) -> None:
        """See `StagedRunner.execute`.

        Raises:
            KeyboardInterrupt: the process was interrupted; what was saved is kept.
        """
        with _polled(poll), warnings.catch_warnings():
            # Dagster's clean-up fails harmlessly in a notebook, where an event loop is running.
            warnings.filterwarnings("ignore", "coroutine .*shutdown_asyncgens", RuntimeWarning)
            for stage_run in stage_runs:
                config = {**stage_run.run_config, **_SILENT}
                failure, trace, is_interrupted = execute(
                    stage_run.stage, stage_run.partition, config
                )
                if is_interrupted:
                    raise KeyboardInterrupt
                if failure is not None:
                    error = HarvestError(failure)
                    error.add_note(trace)
                    raise error


@contextmanager
def _polled(poll: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call a function now and then: a stage keeps the main thread."""
    ended = Event()

    def follow() -> None:
        while not ended.wait(_POLL_SECONDS):
            poll()

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
