"""Which file keeps `datasets` from opening a local folder, where its error does not name one."""

from __future__ import annotations

import zipfile
from pathlib import Path

from harvest_assets.errors import HarvestError, cause_of


def folder_fault(name: str) -> HarvestError | None:
    """The error that names the dataset card or the archive that cannot be read.

    Args:
        name: of the dataset; anything but a local folder has no fault.

    Returns:
        The error to raise; None if neither is the cause.
    """
    if not Path(name).is_dir():
        return None
    return _card_fault(Path(name)) or _archive_fault(Path(name))


def _card_fault(folder: Path) -> HarvestError | None:
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        metadata = DatasetCard.load(card).data
        DatasetInfosDict.from_dataset_card_data(metadata)
        MetadataConfigs.from_dataset_card_data(metadata)
    except Exception as error:  # noqa: BLE001 - each part of a card fails in its own way
        return HarvestError(
            f"The dataset card {str(card)!r} cannot be used: {cause_of(error)}; correct the YAML "
            "between its '---' lines, or remove it."
        )
    return None


def _archive_fault(folder: Path) -> HarvestError | None:
    for path in sorted(folder.rglob("*.zip")):
        try:
            zipfile.ZipFile(path).close()
        except (OSError, zipfile.BadZipFile) as error:
            return HarvestError(
                f"The data file {str(path)!r} of the dataset {str(folder)!r} cannot be used: "
                f"{cause_of(error)}; restore or remove it."
            )
    return None
