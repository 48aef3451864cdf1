"""Queries to W&B in a process of its own, which is ended when its time is up.

The W&B client retries for minutes when W&B is slow, unreachable, or limits requests. A caller that
must finish in time queries here; answers that came before the deadline count.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.orchestration.wandb.inspection import Finding, inspect_run
from harvest_assets.wandb_client.listed_run import ListedRun
from harvest_assets.wandb_client.runs import list_runs

_ENDED = "The process that queries W&B ended unexpectedly."


class WandbSubprocess:
    """Queries W&B; use it in a `with` statement.

    Args:
        seconds: after which every query fails.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        # A process that is killed leaves its temporary files, and the client always makes some.
        self._scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        arguments = (other_end, self._scratch.name)
        self._process = context.Process(target=_answer, args=arguments, daemon=True)
        self._process.start()
        other_end.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()
        self._process.join()
        self._pipe.close()
        self._scratch.cleanup()

    def list_runs(
        self, project: str, filters: Mapping[str, Any], order: str, per_page: int
    ) -> tuple[int, Iterator[ListedRun]]:
        """See `runs.list_runs`; pages are requested as they are needed.

        Raises:
            TransientError: also if time is up.
        """
        total = self._query("list_runs", project, dict(filters), order, per_page)
        return total, self._pages(per_page)

    def _pages(self, per_page: int) -> Iterator[ListedRun]:
        while page := self._query("next_runs", per_page):
            yield from page

    def inspect_run(self, key: str) -> Finding:
        """See `inspection.inspect_run`.

        Raises:
            TransientError: also if time is up.
        """
        finding: Finding = self._query("inspect_run", key)
        return finding

    def _query(self, name: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((name, *arguments))
            if not self._pipe.poll(max(0.0, self._deadline - time.monotonic())):
                self._kill()  # a late answer must not be taken for that of the next query
                raise TransientError(f"W&B did not answer within {self._seconds:.0f} s.")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            late = time.monotonic() >= self._deadline
            reason = f"W&B did not answer within {self._seconds:.0f} s." if late else _ENDED
            raise TransientError(reason) from None
        if isinstance(answer, HarvestError):
            raise answer
        return answer

    def _kill(self) -> None:
        """End the process with the helper that the W&B client has started."""
        assert self._process.pid is not None  # noqa: S101
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # it may not have begun its own group yet


class _Queries:
    """The queries that the process answers; keeps the list requested last."""

    def __init__(self) -> None:
        self._runs: Iterator[ListedRun] = iter(())

    def list_runs(self, *arguments: Any) -> int:
        """Begin a list; returns how many runs there are."""
        total, self._runs = list_runs(*arguments)
        return total

    def next_runs(self, n: int) -> list[ListedRun]:
        """The next runs of the list."""
        return list(islice(self._runs, n))

    def inspect_run(self, key: str) -> Finding:
        """See `inspection.inspect_run`."""
        return inspect_run(key)


def _answer(pipe: Connection, scratch: str) -> None:
    """Answer queries until the other end of the pipe is closed."""
    os.setsid()  # with the client's own helper process
    os.environ["TMPDIR"] = tempfile.tempdir = scratch
    os.environ["WANDB_SILENT"] = "true"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # the client prints warnings
        os.dup2(nowhere, descriptor)
    queries = _Queries()
    with suppress(EOFError, ConnectionError):
        while True:
            name, *arguments = pipe.recv()
            answer: Any
            try:
                answer = getattr(queries, name)(*arguments)
            except HarvestError as error:
                answer = error
            pipe.send(answer)
