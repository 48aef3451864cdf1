"""A harvest as an artifact on W&B, through W&B's own client.

A push that differs from the newest version becomes the next version; none is ever overwritten. A
pull keeps each file that was received whole. The client takes its key from its usual places.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, TransientError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_bytes
from harvest_assets.sharing.address import WandbArtifact
from harvest_assets.sharing.contents import CONTENTS, MAX_ENCODED_BYTES, Contents, Watch
from harvest_assets.sharing.receive import Received, receive
from harvest_assets.wandb_client.files import may_pass
from harvest_assets.wandb_client.service import prepare_service

_TYPE = "harvest"


def push(paths: HarvestLayout, contents: Contents, address: WandbArtifact) -> bool:
    """Log a harvest as the next version of an artifact, from a run of its own.

    Args:
        paths: of the harvest.
        contents: its files, checked.
        address: of the artifact; it is created if there is none.

    Returns:
        Whether anything was sent; False if the newest version is equal.

    Raises:
        HarvestError: the address names a version, or W&B refuses.
    """
    if address.version is not None:
        raise HarvestError(f"{address} names a version, which W&B chooses; leave it out.")
    with _reported(address), tempfile.TemporaryDirectory() as scratch:
        import wandb

        prepare_service()
        if wandb.Api().artifact_exists(address.name):
            newest = _found(address)
            if CONTENTS in newest.manifest.entries and _contents(newest, address) == contents:
                return False
        artifact = wandb.Artifact(address.artifact, type=_TYPE)
        for name in contents.files:
            _add(artifact, paths.root / name, name)
        (Path(scratch) / CONTENTS).write_bytes(contents.encoded)
        _add(artifact, Path(scratch) / CONTENTS, CONTENTS)
        settings = wandb.Settings(
            mode="online",
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        with wandb.init(
            entity=address.entity,
            project=address.project,
            job_type="push",
            name=f"push {paths.root.name}",
            dir=scratch,
            settings=settings,
        ) as run:
            run.log_artifact(artifact).wait()
    return True


def pull(
    address: WandbArtifact, out_name: str | None, watch: Watch, layers: Sequence[str] = ()
) -> Received:
    """Put the harvest in an artifact into its folder below `harvest/`.

    Args:
        address: of the artifact.
        out_name: the folder below `harvest/`; None for the name that it had.
        watch: is shown the progress of checking.
        layers: patterns of the layers that are kept; without any all are.

    Raises:
        TransientError: W&B does not answer now; what was received is kept for the next time.
        HarvestError: there is no harvest, it is damaged, or another one is in the folder.
    """
    with _reported(address):
        prepare_service()
        artifact = _found(address)
        entries = artifact.manifest.entries
        if CONTENTS not in entries:
            raise HarvestError(f"{address} holds no harvest: it has no {CONTENTS}.")
        contents = _contents(artifact, address)
        expected = {name: file.size for name, file in contents.files.items()}
        found = {name: it.size for name, it in entries.items() if name != CONTENTS}
        if found != expected or any(it.ref is not None for it in entries.values()):
            raise HarvestError(f"{address} is damaged: its files are not those in {CONTENTS}.")

        def fill(folder: Path) -> None:
            with _reported(address):
                artifact.download(root=str(folder), skip_cache=True)

        return receive(contents, out_name, str(address), fill, watch, layers)


def _add(artifact: Any, path: Path, name: str) -> None:
    # Neither copied beforehand nor kept in the client's cache: files may be large.
    artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)


def _found(address: WandbArtifact) -> Any:
    import wandb

    return wandb.Api().artifact(f"{address.name}:{address.version or 'latest'}")


def _contents(artifact: Any, address: WandbArtifact) -> Contents:
    entry = artifact.get_entry(CONTENTS)
    try:
        if entry.ref is not None or not 0 <= (entry.size or 0) <= MAX_ENCODED_BYTES:
            raise ValueError(f"it is longer than {MAX_ENCODED_BYTES:,} bytes, or elsewhere")
        with tempfile.TemporaryDirectory() as scratch:
            entry.download(root=scratch, skip_cache=True)
            return Contents.parse(read_bytes(Path(scratch) / CONTENTS, MAX_ENCODED_BYTES))
    except ValueError as error:
        raise HarvestError(f"{CONTENTS} in {address} is malformed: {reason_of(error)}.") from None


@contextmanager
def _reported(address: WandbArtifact) -> Iterator[None]:
    """Turn errors of the client into a `HarvestError`; the client's own may hold the API key."""
    try:
        yield
    except HarvestError:
        raise
    except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
        kind = TransientError if may_pass(error) else HarvestError
        raise kind(
            f"{address} was not transferred; check the name, the API key (`wandb login`, "
            f"WANDB_API_KEY) and the network: {reason_of(error)}."
        ) from None
