"""Questions of pages to the model of a run: computed one at a time, without holding up pages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.kind import A, Kind, Q
from harvest_assets.live.live_model import LiveModel, files_of

_MAX_WAITING = 40
_MAX_KEPT = 8  # answers; those to whole rows take megabytes
_ERROR_SECONDS = 5.0  # for which a failed question is not asked again


class BusyError(HarvestError):
    """Too many questions are waiting."""


@dataclass
class _Asked:
    future: Future[Any]
    done_at: float | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it failed a while ago."""
        if self.done_at is None or self.future.exception() is None:
            return False
        return time.monotonic() - self.done_at > _ERROR_SECONDS


class Asking:
    """Asks the model of a run for pages; what was asked last is kept, so that pages can wait."""

    def __init__(self) -> None:
        self._live = LiveModel()
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="questions")
        self._asked: OrderedDict[Hashable, _Asked] = OrderedDict()
        self._lock = threading.Lock()

    async def answer(
        self, paths: HarvestLayout, kind: Kind[Q, A], question: Q, seconds: float | None = None
    ) -> A | None:
        """The answer to a question.

        Args:
            paths: of a harvest of the run.
            kind: of the question.
            question: to ask.
            seconds: to wait; None: until it is answered.

        Returns:
            None if time was up; whoever asks the same again gets the answer once it is there.

        Raises:
            HarvestError: it could not be answered.
            BusyError: too many questions are waiting.
        """
        asked = self._ask(paths, kind, question)
        done, _ = await asyncio.wait([asyncio.wrap_future(asked.future)], timeout=seconds)
        return done.pop().result() if done else None

    def is_open(self, paths: HarvestLayout) -> bool:
        """Whether the model of a run is open, or opening."""
        return self._live.is_open(paths)

    def close(self) -> None:
        """Answer no further questions, and close the model."""
        self._queue.shutdown(wait=False, cancel_futures=True)
        self._live.close()

    def _ask(self, paths: HarvestLayout, kind: Kind[Q, A], question: Q) -> _Asked:
        """The question if it was asked already, else a new one at the end of the queue."""
        key = (files_of(paths), kind.name, question.model_dump_json())
        with self._lock:
            asked = self._asked.get(key)
            if asked is None or asked.is_stale:
                self._make_room()
                asked = _Asked(self._queue.submit(self._live.ask, paths, kind, question))
                asked.future.add_done_callback(lambda _: _note_end(asked))
                self._asked[key] = asked
            self._asked.move_to_end(key)
            return asked

    def _make_room(self) -> None:
        """Forget the oldest answers.

        Raises:
            BusyError: too many questions have none yet.
        """
        done = [key for key, asked in self._asked.items() if asked.future.done()]
        if len(self._asked) - len(done) >= _MAX_WAITING:
            raise BusyError(f"{_MAX_WAITING} questions are waiting; ask again in a few seconds.")
        for key in done[: max(0, len(done) + 1 - _MAX_KEPT)]:
            del self._asked[key]


def _note_end(asked: _Asked) -> None:
    asked.done_at = time.monotonic()
