"""Files of a W&B run: a list of them, and how they are stored in a folder, complete or not at all.

Each file is downloaded into a temporary folder beside the cache folder, synced, then renamed into
place. The caller names last the file without which a folder does not count as complete; so an
interrupted download is never taken for a whole one, and two processes at once only do the work
twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from harvest_assets.errors import HarvestError, TransientError, reason_of
from harvest_assets.files.atomic import remove, sweep, temporary_beside
from harvest_assets.files.free_space import require_free
from harvest_assets.files.layout import is_folder_name
from harvest_assets.wandb_client.run_name import CHECKPOINT_SUFFIXES, LOCAL_ENTITY, RunName
from harvest_assets.wandb_client.service import prepare_service

logger = logging.getLogger(__name__)

_FILES_PER_REQUEST = 500
# Of a file that is not a checkpoint; tokenizers have some 20 MB.
_MAX_BYTES = 200_000_000
_PASSING_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class RunNotOnWandbError(HarvestError):
    """W&B has no run of this name."""


class MalformedAnswerError(TransientError):
    """W&B's answer about a run makes no sense; the next one may."""


class RunRefusedError(TransientError):
    """W&B forbids access to a run: access may be restored, and proxies so limit requests."""


def list_files(name: RunName) -> dict[str, Any]:
    """The files of a W&B run, as `wandb.apis.public.File` by name.

    Raises:
        TransientError: W&B cannot be reached, does not answer now, its answer is malformed, or it
            forbids access to the run.
        RunNotOnWandbError: W&B has no such run.
        HarvestError: there is no valid API key.
    """
    if name.entity == LOCAL_ENTITY:
        raise HarvestError(
            f"{name.key} is a local run, so it cannot be downloaded from W&B, and its files are "
            "not in the run cache: give the path to its directory instead."
        )
    with _reported_in_one_sentence(name):
        import wandb
        from wandb.apis.public import RunNotFoundError

        prepare_service()
        try:
            run = wandb.Api().run(name.key)
        except wandb.errors.CommError as error:
            if not isinstance(error.exc, RunNotFoundError):
                raise
            raise RunNotOnWandbError(
                f"{name.key} is not on W&B; check the name, or give a path to the run's files."
            ) from None
        return {file.name: file for file in run.files(per_page=_FILES_PER_REQUEST)}


def download_files(
    name: RunName, files: Mapping[str, Any], wanted: Sequence[str], folder: Path
) -> None:
    """Download `wanted`, in this order, into `folder`, replacing files of the same name.

    Args:
        name: the run, for messages.
        files: as returned by `list_files`.
        wanted: names out of `files`; the one that makes the folder complete comes last.
        folder: created if missing.

    Raises:
        TransientError: a download failed or came out with another size than W&B lists.
        HarvestError: a file is too large, for what it is or for the disk, or its name leads to
            another folder.
    """
    for file_name in wanted:
        _check_file(name, file_name, files[file_name].size)
    require_free(folder, sum(files[file_name].size for file_name in wanted))
    with _reported_in_one_sentence(name):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)  # a download that was killed has left gigabytes
        scratch = temporary_beside(folder)
        scratch.mkdir()
        try:
            for file_name in wanted:
                _download(name, files[file_name], scratch)
            for file_name in wanted:
                (scratch / file_name).replace(folder / file_name)
                _sync(folder)
        finally:
            remove(scratch)


def _check_file(name: RunName, file_name: str, n_bytes: int) -> None:
    if not is_folder_name(file_name):
        raise HarvestError(
            f"{name.key} has a file {file_name!r} on W&B, which is not a plain file name."
        )
    if n_bytes > _MAX_BYTES and not file_name.endswith(CHECKPOINT_SUFFIXES):
        raise HarvestError(
            f"{file_name} of {name.key} has {decimal(n_bytes)} on W&B; such a file has "
            f"{decimal(_MAX_BYTES)} at most."
        )


def _download(name: RunName, file: Any, folder: Path) -> None:
    logger.info("Downloading %s of %s (%.1f MB)", file.name, name.key, file.size / 1e6)
    file.download(root=str(folder), replace=True).close()
    path = folder / file.name
    size = path.stat().st_size
    if size != file.size:
        raise TransientError(
            f"{file.name} of {name.key} came from W&B with {size} bytes instead of {file.size}: "
            "try again."
        )
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reported_in_one_sentence(name: RunName) -> Iterator[None]:
    """Turn errors of the W&B client into a HarvestError.

    That is the end of the client's own error, which may hold the API key and would be logged.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except wandb.errors.UsageError as error:
        raise HarvestError(
            f"{name.key} is not in the run cache and W&B requires an API key to download it: run "
            f"`wandb login` or set WANDB_API_KEY ({reason_of(error)})."
        ) from None
    except (wandb.errors.Error, WandbApiFailedError, OSError, ValueError) as error:
        raise _kind_of(error)(
            f"{name.key} could not be downloaded from W&B; check the name, the API key and the "
            f"network, or give a path to the run's files: {reason_of(error)}"
        ) from None


def _kind_of(error: BaseException) -> type[HarvestError]:
    if may_pass(error):
        return TransientError
    if _status(error) == HTTPStatus.FORBIDDEN:
        return RunRefusedError
    malformed = any(isinstance(it, ValueError) for it in _chain(error))
    return MalformedAnswerError if malformed else HarvestError


def may_pass(error: BaseException) -> bool:
    """Whether an error of the W&B client may be transient: no whole answer, 429, 5xx."""
    status = _status(error)
    if status is None:
        return False
    # Below 400, the answer broke off.
    broken_off = status < HTTPStatus.BAD_REQUEST
    return broken_off or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUS


def _status(error: BaseException) -> int | None:
    """The status of W&B's answer, 0 if there was no answer; None if the error is another."""
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    for it in _chain(error):
        if isinstance(it, WandbApiFailedError):
            return it.response.http_status if it.response is not None else 0
        if isinstance(it, OSError):
            return 0
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
