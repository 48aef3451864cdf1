"""Files of a repository on the Hugging Face hub, downloaded into its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.unwritable import advice

_REPOSITORY_PARTS = 2


def fetch_folder(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository, or one in it, with the files that match.

    Args:
        name: `owner/repository`, then the path of a folder in it; or a repository without an owner.
        patterns: of file names in that folder.

    Raises:
        HarvestError: it is neither in the cache nor can it be downloaded.
    """
    from huggingface_hub import snapshot_download

    parts = name.strip("/").split("/")
    repository, inside = "/".join(parts[:_REPOSITORY_PARTS]), parts[_REPOSITORY_PARTS:]
    prefix = "".join(f"{part}/" for part in inside)
    try:
        root = snapshot_download(repository, allow_patterns=[prefix + p for p in patterns])
    except Exception as error:  # hub clients of many versions: each raises what it likes
        raise HarvestError(
            f"{name!r} is neither a folder nor can it be had from the hub: {reason_of(error)}."
            f"{advice(error)}"
        ) from error
    return Path(root).joinpath(*inside)
