"""The service process of the W&B client: that W&B answers it, and that it ends.

The client sends all requests through it. Where an address does not answer, it retries for minutes;
and when this process ends, the client waits for the service without a limit.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

import psutil

from harvest_assets.errors import reason_of

SECONDS_TO_ANSWER = 20
_SECONDS_TO_END = 30.0
_PROGRAM = "wandb-core"


def prepare_service() -> None:
    """Check that W&B's address answers, with any status, before the client is used.

    A service that the client starts for this is killed if it does not end with this process.

    Raises:
        OSError: it does not answer.
    """
    import wandb

    _end_with_this_process()
    _check_reachable(wandb.setup().settings)


def _check_reachable(settings: Any) -> None:
    if settings.http_proxy or settings.https_proxy:
        return  # known to the client alone
    import requests

    try:
        requests.head(settings.base_url, timeout=SECONDS_TO_ANSWER)
    except requests.exceptions.SSLError:
        return  # the client may trust other certificates
    except requests.RequestException as error:
        raise OSError(f"{settings.base_url} does not answer ({reason_of(error)})") from error


@cache
def _end_with_this_process() -> None:
    if not _services():  # one that is there serves somebody else's run
        threading.Thread(target=_kill_late_service, name=_PROGRAM, daemon=True).start()


def _kill_late_service() -> None:
    import wandb

    threading.main_thread().join()
    for thread in threading.enumerate():
        if not thread.daemon:
            thread.join()
    uploads = getattr(wandb.setup(), "most_recent_active_run", wandb.run) is not None
    time.sleep(_SECONDS_TO_END)
    for service in [] if uploads else _services():
        with suppress(psutil.Error):
            service.kill()


def _services() -> list[psutil.Process]:
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() == _PROGRAM:
                    found.append(child)
    return found
