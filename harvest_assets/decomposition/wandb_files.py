"""Files of a W&B run: which there are, and how they come into a folder, complete or not at all.

Each file is downloaded into a temporary folder beside the cache folder, synced, then renamed into
place. Whoever calls names last the file without which a folder does not count as complete; so an
interrupted download is never taken for a whole one, and two processes at once only do the work
twice.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harvest_assets.decomposition.run_name import LOCAL_ENTITY, RunName
from harvest_assets.errors import HarvestError

logger = logging.getLogger(__name__)

_FILES_PER_REQUEST = 500
_SECONDS_TO_ANSWER = 20.0


def list_files(name: RunName) -> dict[str, Any]:
    """The files of a W&B run, as `wandb.apis.public.File` by name.

    Raises:
        HarvestError: W&B knows no such run, has no valid API key from us, or cannot be reached.
    """
    if name.entity == LOCAL_ENTITY:
        msg = (
            f"{name.key} is a local run, so it cannot be downloaded from W&B, and its files are "
            "not in the run cache: give the path to its directory instead."
        )
        raise HarvestError(msg)
    with _told_in_one_sentence(name):
        import wandb

        _check_reachable(wandb.setup().settings)
        run = wandb.Api().run(name.key)
        return {file.name: file for file in run.files(per_page=_FILES_PER_REQUEST)}


def download_files(
    name: RunName, files: Mapping[str, Any], wanted: Sequence[str], folder: Path
) -> None:
    """Download `wanted`, in this order, into `folder`, replacing what has the same name there.

    Args:
        name: the run, for messages.
        files: what `list_files` answered.
        wanted: names out of `files`; the one that makes the folder complete comes last.
        folder: made if it is not there.

    Raises:
        HarvestError: a download failed or came out with another size than W&B tells.
    """
    scratch_prefix = f".{folder.name}.download-"
    with _told_in_one_sentence(name):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=scratch_prefix) as scratch:
            for file_name in wanted:
                _download(name, files[file_name], Path(scratch))
            for file_name in wanted:
                (Path(scratch) / file_name).replace(folder / file_name)
                _sync(folder)


def _download(name: RunName, file: Any, folder: Path) -> None:
    logger.info("Downloading %s of %s (%.1f MB)", file.name, name.key, file.size / 1e6)
    file.download(root=str(folder), replace=True).close()
    path = folder / file.name
    size = path.stat().st_size
    if size != file.size:
        msg = (
            f"{file.name} of {name.key} came from W&B with {size} bytes instead of {file.size}: "
            "try again."
        )
        raise HarvestError(msg)
    _sync(path)


def _check_reachable(settings: Any) -> None:
    """Raise OSError when nobody answers at W&B's address.

    The client tries such an address for long, and its service process sometimes never ends then.
    """
    if settings.http_proxy or settings.https_proxy:
        return  # known to the client alone
    request = urllib.request.Request(settings.base_url, method="HEAD")  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            msg = f"{settings.base_url} does not answer ({error.reason})"
            raise OSError(msg) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_in_one_sentence(name: RunName) -> Iterator[None]:
    """Turn what the W&B client raises into a HarvestError that holds no API key."""
    import wandb

    try:
        yield
    except wandb.errors.UsageError as error:
        msg = (
            f"{name.key} is not in the run cache and W&B wants an API key to download it: run "
            f"`wandb login` or set WANDB_API_KEY ({_text(error)})."
        )
        raise HarvestError(msg) from error
    except (wandb.errors.Error, OSError, ValueError, TimeoutError) as error:
        msg = (
            f"{name.key} could not be downloaded from W&B; check the name, the API key and the "
            f"network, or give a path to the run's files: {_text(error)}"
        )
        raise HarvestError(msg) from error


def _text(error: Exception) -> str:
    """The first line of an error, without the API key should it stand there."""
    text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text
