"""Files of a run, recognised again: by their content, or faster by their stamps.

Where stamps (`files/stamps.py`) differ or are missing, the digest decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.stamps import Stamp, stamps_of


def digest_of(paths: Sequence[Path]) -> str:
    """SHA-256 of the files' hexadecimal SHA-256 digests, concatenated."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def are_unchanged(paths: Sequence[Path], sha256: str, stamps: tuple[Stamp, ...] | None) -> bool:
    """Whether files are the ones that were verified.

    Args:
        paths: of the files.
        sha256: what `digest_of` returned for them.
        stamps: what `stamps_of` returned before.

    Raises:
        FileNotFoundError: one is missing.
    """
    return (stamps is not None and stamps == stamps_of(paths)) or digest_of(paths) == sha256


def check_unchanged(paths: Sequence[Path], sha256: str, stamps: tuple[Stamp, ...] | None) -> None:
    """Check that files are the ones that were verified.

    Args:
        paths: of the files, the one to name last.
        sha256: what `digest_of` returned for them.
        stamps: what `stamps_of` returned before.

    Raises:
        HarvestError: a file is missing or has changed.
    """
    try:
        unchanged = are_unchanged(paths, sha256, stamps)
    except FileNotFoundError as error:
        raise HarvestError(
            f"{error.filename} is missing, but the harvest was planned with it; restore it, or "
            "materialize run_checkpoint and harvest_plan again."
        ) from error
    if not unchanged:
        raise HarvestError(
            f"{paths[-1]} or its config has changed since the harvest was planned; materialize "
            "run_checkpoint and harvest_plan again."
        )
