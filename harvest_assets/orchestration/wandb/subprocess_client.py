"""Questions to W&B, asked by a process of its own that may take so much time and no more.

The W&B client tries again and again for long when W&B is slow, away, or limits requests; whoever
has to answer in time asks here. Answers that have come until then count.

As a program it reads one JSON question a line and prints one JSON line for each part of an answer,
the last of them with `end`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, Self

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files.sanitize import presentable
from harvest_assets.orchestration.wandb.inspection import Finding, inspect_run
from harvest_assets.wandb_client.listed_run import ListedRun
from harvest_assets.wandb_client.runs import list_runs


class WandbSubprocess:
    """Asks W&B; use it in a `with` statement.

    Args:
        seconds: after which every question fails.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "WANDB_SILENT": "true"},
            start_new_session=True,  # with the client's own helper process
        )
        self._timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), self._kill)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def list_runs(
        self, project: str, filters: Mapping[str, Any], order: str, per_page: int
    ) -> tuple[int, Iterator[ListedRun]]:
        """See `runs.list_runs`; pages are asked for as they are needed.

        Raises:
            TransientError: also if time is up.
        """
        asked = {"project": project, "filters": filters, "order": order, "per_page": per_page}
        (answer,) = self._ask({"list_runs": asked})
        return int(answer["total"]), self._listed(per_page)

    def _listed(self, per_page: int) -> Iterator[ListedRun]:
        while page := list(self._ask({"next_runs": per_page})):
            for run in page:
                yield ListedRun(**{**run, "tags": tuple(run["tags"])})

    def inspect_run(self, key: str) -> Finding:
        """See `inspection.inspect_run`.

        Raises:
            TransientError: also if time is up.
        """
        (finding,) = self._ask({"inspect_run": key})
        return Finding(**finding)

    def _ask(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101
        assert stdout is not None  # noqa: S101
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            for line in stdout:
                answer = json.loads(line)
                if "error" in answer:
                    kind = TransientError if answer["passing"] else HarvestError
                    raise kind(answer["error"])
                if "end" in answer:
                    return
                yield answer
        except (BrokenPipeError, ValueError):
            pass  # killed while it wrote
        if time.monotonic() < self._deadline:
            raise TransientError("The process that asks W&B ended by itself.")
        raise TransientError(f"W&B did not answer within {self._seconds:.0f} s.")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Answers:
    """What the process knows: the list that was asked for last, and how far it was told."""

    def __init__(self) -> None:
        self._runs: Iterator[ListedRun] = iter(())

    def to(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The parts of an answer."""
        if "inspect_run" in question:
            yield dataclasses.asdict(inspect_run(question["inspect_run"]))
        elif "next_runs" in question:
            yield from map(dataclasses.asdict, islice(self._runs, question["next_runs"]))
        else:
            total, self._runs = list_runs(**question["list_runs"])
            yield {"total": total}


def main() -> None:
    """Answer questions until there are no more."""
    answers = _Answers()
    # The client prints where it likes; what is told here goes where it is waited for.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            for answer in answers.to(json.loads(line)):
                out.write(json.dumps(answer) + "\n")
                out.flush()
            last: dict[str, Any] = {"end": True}
        except HarvestError as error:
            passing = isinstance(error, TransientError)
            last = {"error": presentable(str(error)), "passing": passing}
        out.write(json.dumps(last) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
