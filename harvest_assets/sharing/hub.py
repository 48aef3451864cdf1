"""A harvest as a dataset on the Hugging Face hub, through the hub's own client.

A push is one commit: the dataset has the whole harvest, or nothing of it. Large files that an
interrupted push had sent are not sent again, and a pull keeps each file that was received whole.
The client takes its token from its usual places (`hf auth login`, `HF_TOKEN`) and shows its bars.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, TransientError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_bytes
from harvest_assets.sharing.address import HubDataset
from harvest_assets.sharing.card import card_of
from harvest_assets.sharing.contents import CONTENTS, MAX_ENCODED_BYTES, Contents, Watch
from harvest_assets.sharing.receive import Received, receive

_CARD = "README.md"
_KIND = "dataset"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def push(paths: HarvestLayout, contents: Contents, address: HubDataset, *, private: bool) -> bool:
    """Commit a harvest to a dataset, which is created if there is none.

    Args:
        paths: of the harvest.
        contents: its files, checked.
        address: of the dataset; a branch that does not exist is created.
        private: whether a dataset that is created is.

    Returns:
        Whether anything was sent; False if an equal harvest was there.

    Raises:
        HarvestError: the dataset holds other files of these names, or the hub refuses.
    """
    with _reported(address):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(address.repo_id, repo_type=_KIND, private=private or None, exist_ok=True)
        if address.revision:
            _create_branch(api, address)
        commit = _commit(api, address)
        sizes = _sizes(api, address, commit, [CONTENTS, _CARD, *contents.files])
        if CONTENTS in sizes and _contents(address, commit, sizes[CONTENTS]) == contents:
            return False
        taken = sizes.keys() - {_CARD}
        if taken:
            raise HarvestError(
                f"{address} holds another harvest or other files ({min(taken)}), and was "
                "left as it is; push to another dataset, or to a branch with @BRANCH."
            )
        sent = {name: paths.root / name for name in contents.files}
        made = {CONTENTS: contents.encoded}
        if _CARD not in sizes:
            made[_CARD] = card_of(paths, address).encode()
        api.create_commit(
            address.repo_id,
            [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in (sent | made).items()
            ],
            commit_message=f"Harvest {paths.root.name}",
            repo_type=_KIND,
            revision=address.revision,
            parent_commit=commit,
        )
    return True


def pull(
    address: HubDataset, out_name: str | None, watch: Watch, layers: Sequence[str] = ()
) -> Received:
    """Put the harvest in a dataset into its folder below `harvest/`.

    Args:
        address: of the dataset.
        out_name: the folder below `harvest/`; None for the name that it had.
        watch: is shown the progress of checking.
        layers: patterns of the layers that are kept; without any all are.

    Raises:
        TransientError: the hub does not answer now; what was received is kept for the next time.
        HarvestError: there is no harvest, it is damaged, or another one is in the folder.
    """
    with _reported(address):
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        commit = _commit(api, address)
        sizes = _sizes(api, address, commit, [CONTENTS])
        if CONTENTS not in sizes:
            raise HarvestError(f"{address} holds no harvest: it has no {CONTENTS}.")
        contents = _contents(address, commit, sizes[CONTENTS])
        sizes = _sizes(api, address, commit, list(contents.files))
        for name, file in contents.files.items():
            if sizes.get(name) != file.size:
                raise HarvestError(
                    f"{address} is damaged: {name} does not have the size in {CONTENTS}."
                )

        def fill(folder: Path) -> None:
            with _reported(address):
                for name in contents.files:
                    hf_hub_download(
                        address.repo_id, name, repo_type=_KIND, revision=commit, local_dir=folder
                    )

        return receive(contents, out_name, str(address), fill, watch, layers)


def _create_branch(api: Any, address: HubDataset) -> None:
    """Create the branch without the files of others, unless it exists."""
    first = api.list_repo_commits(address.repo_id, repo_type=_KIND)[-1].commit_id
    api.create_branch(
        address.repo_id, branch=address.revision, revision=first, repo_type=_KIND, exist_ok=True
    )


def _commit(api: Any, address: HubDataset) -> str:
    """The commit that the address means, so that all files come from the same one."""
    return str(api.dataset_info(address.repo_id, revision=address.revision).sha)


def _sizes(api: Any, address: HubDataset, commit: str, names: list[str]) -> dict[str, int]:
    """Sizes of those of the files that the dataset has."""
    found = api.get_paths_info(address.repo_id, names, revision=commit, repo_type=_KIND)
    return {it.path: getattr(it, "size", 0) for it in found}


def _contents(address: HubDataset, commit: str, size: int) -> Contents:
    from huggingface_hub import hf_hub_download

    try:
        if size > MAX_ENCODED_BYTES:
            raise ValueError(f"it is longer than {MAX_ENCODED_BYTES:,} bytes")
        with tempfile.TemporaryDirectory() as scratch:
            hf_hub_download(
                address.repo_id, CONTENTS, repo_type=_KIND, revision=commit, local_dir=scratch
            )
            return Contents.parse(read_bytes(Path(scratch) / CONTENTS, MAX_ENCODED_BYTES))
    except ValueError as error:
        raise HarvestError(f"{CONTENTS} in {address} is malformed: {reason_of(error)}.") from None


@contextmanager
def _reported(address: HubDataset) -> Iterator[None]:
    """Turn errors of the client into a `HarvestError` that ends with what to do."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except HarvestError:
        raise
    except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
        raise _error(address, error) from None


def _error(address: HubDataset, error: Exception) -> HarvestError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return HarvestError(f"The hub has no revision {address.revision!r} of {address.repo_id}.")
    if isinstance(error, RepositoryNotFoundError):
        return HarvestError(
            f"The hub has no dataset {address.repo_id} that you may read; check the name, or "
            f"{_LOG_IN}."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return HarvestError(f"The hub refuses {address} ({reason_of(error)}); {_LOG_IN}.")
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return HarvestError(f"{error.filename}: {os.strerror(error.errno)}.")
    passing = status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = TransientError if passing else HarvestError
    return kind(
        f"{address} was not transferred ({reason_of(error)}); the same command continues from "
        "what was transferred."
    )
