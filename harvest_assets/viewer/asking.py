"""Questions of pages to the model of a run: computed one at a time, without holding up pages."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.kind import A, Kind, Q
from harvest_assets.live.live_model import LiveModel, files_of

_MAX_WAITING = 40
_MAX_KEPT = 100  # answers
_MAX_KEPT_BYTES = 16_000_000  # of them all
_ERROR_SECONDS = 5.0  # for which a failed question is not asked again


class BusyError(HarvestError):
    """Too many questions are waiting."""


@dataclass
class _Asked:
    """A question.

    Args:
        future: of the JSON text of the answer.
        done_at: when it was answered, or failed.
        size: bytes of the answer; 0 before it is there.
    """

    future: Future[bytes]
    done_at: float | None = None
    size: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether it failed a while ago."""
        if self.done_at is None or self.size:
            return False
        return time.monotonic() - self.done_at > _ERROR_SECONDS


class Asking:
    """Asks the model of a run for pages; what was asked last is kept, so that pages can wait."""

    def __init__(self) -> None:
        self._live = LiveModel()
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="questions")
        self._asked: OrderedDict[Hashable, _Asked] = OrderedDict()
        self._lock = threading.RLock()  # a question may end while it is being added

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
            None if time was up; asking the same again gives the answer once it is there.

        Raises:
            HarvestError: it could not be answered.
            BusyError: too many questions are waiting.
        """
        asked = await run_in_threadpool(self._ask, paths, kind, question)
        answered = asyncio.wrap_future(asked.future)
        answered.add_done_callback(_retrieve)
        done, _ = await asyncio.wait([answered], timeout=seconds)
        if not done:
            return None
        if asked.future.cancelled():
            raise HarvestError("The viewer is being stopped.")
        return await run_in_threadpool(kind.answer.model_validate_json, answered.result())

    def is_open(self, paths: HarvestLayout) -> bool:
        """Whether the model of a run is open: not while it is being opened."""
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
                self._require_room()
                asked = _Asked(self._queue.submit(self._text, paths, kind, question))
                self._asked[key] = asked
                asked.future.add_done_callback(lambda _: self._note_end(asked))
            self._asked.move_to_end(key)
            return asked

    def _text(self, paths: HarvestLayout, kind: Kind[Q, A], question: Q) -> bytes:
        """The answer as JSON, which takes a tenth of the memory of its values."""
        return self._live.ask(paths, kind, question).model_dump_json().encode()

    def _require_room(self) -> None:
        """Check that a question may be added.

        Raises:
            BusyError: too many have no answer yet.
        """
        if sum(asked.done_at is None for asked in self._asked.values()) >= _MAX_WAITING:
            raise BusyError(f"{_MAX_WAITING} questions are waiting; ask again in a few seconds.")

    def _note_end(self, asked: _Asked) -> None:
        """Note the end of a question, and forget the answers that were asked for longest ago."""
        with self._lock:
            asked.done_at = time.monotonic()
            if not asked.future.cancelled() and asked.future.exception() is None:
                asked.size = len(asked.future.result())
            n, size = 0, 0
            for key, kept in reversed(list(self._asked.items())):
                if kept.done_at is None:
                    continue
                n, size = n + 1, size + kept.size
                if n > 1 and (n > _MAX_KEPT or size > _MAX_KEPT_BYTES):
                    del self._asked[key]


def _retrieve(answered: asyncio.Future[bytes]) -> None:
    """Look at an error, which asyncio otherwise prints where no page waits for it any longer."""
    if not answered.cancelled():
        answered.exception()
