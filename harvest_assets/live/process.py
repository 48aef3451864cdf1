"""The process that holds the model of one run: `python -m harvest_assets.live.process FD FOLDER`.

Messages are JSON objects, each preceded by its length, over the socket FD:

1. the process opens the run and sends `{"answer": true}`, or `{"error": sentence}` and ends;
2. for each `{"kind": name, "question": {...}}` it sends `{"answer": {...}}` or `{"error": ...}`.

It ends when nothing has been asked for a while, and at once when the other end is closed, also
while it computes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import RedactingFilter
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.questions import KINDS
from harvest_assets.settings import LiveSettings

logger = logging.getLogger(__name__)


def main() -> None:
    """Open the run and answer questions."""
    pipe = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the parent too
    os.dup2(2, 1)  # libraries print
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger().handlers[0].addFilter(RedactingFilter())
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, messages), daemon=True).start()
    opened: list[OpenedRun] = []
    _send(pipe, _reply(lambda: _open(opened, HarvestLayout.of(sys.argv[2]))))
    if opened:
        _answer(opened[0], pipe, messages)


def _open(opened: list[OpenedRun], paths: HarvestLayout) -> str:
    """Load what every question needs, so that only opening takes long."""
    run = OpenedRun(paths)
    run.warm_up()
    opened.append(run)
    return "true"


def _receive(pipe: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    """Hand on what is asked; where the other end is closed, end the process."""
    try:
        while True:
            messages.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def _answer(run: OpenedRun, pipe: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    """Answer until nothing has been asked for a while."""
    idle = LiveSettings.from_environment().live_idle_seconds
    while True:
        try:
            message = json.loads(messages.get(timeout=idle))
        except queue.Empty:
            return
        kind, question = KINDS[message["kind"]], message["question"]
        _send(pipe, _reply(partial(kind.answered, run, question)))


def _reply(compute: Callable[[], str]) -> str:
    """A reply with the JSON text that a function returns, or with the reason why it failed."""
    try:
        return f'{{"answer": {compute()}}}'
    except HarvestError as error:
        return json.dumps({"error": str(error)})
    except MemoryError:
        return json.dumps({"error": "There is not enough memory to compute this text."})
    except Exception as error:  # the code of models: each raises what it likes
        logger.exception("A question failed.")
        return json.dumps({"error": f"The model failed: {reason_of(error)}."})


def _send(pipe: Connection, reply: str) -> None:
    pipe.send_bytes(reply.encode())


if __name__ == "__main__":
    main()
