"""What pages need from a whole harvest: computed once, by a process of its own, and kept.

A process, so that pages stay quick meanwhile and its memory is returned. What it made is a folder
below `cache/`, whose name has the version of the harvest's files; where that cannot be written, it
is a temporary one that ends with the server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import remove, sweep, temporary_beside
from harvest_assets.files.layout import viewer_cache_root
from harvest_assets.files.sanitize import presentable

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

Kind = Literal["contexts", "map"]
# The module whose function `build` fills the folder.
_BUILDERS: dict[str, str] = {
    "contexts": "harvest_assets.viewer.contexts.build",
    "map": "harvest_assets.viewer.component_map.build",
}
_AT_ONCE = 2
_ERROR = "error: "  # begins the line that says what went wrong
_NICE = 5


@dataclass
class Work:
    """A folder that is being computed.

    Args:
        share: of it that is done, from 0 to 1.
        error: what went wrong, in a sentence.
        ended: whether the process has.
    """

    share: float = 0.0
    error: str = ""
    ended: bool = False


class Derived:
    """The folders computed from harvests; safe to share between threads."""

    def __init__(self) -> None:
        self._work: dict[Path, Work] = {}
        self._lock = threading.Lock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def folder(self, harvest: Harvest, kind: Kind) -> Path | Work:
        """The folder of this kind; while it is computed, how much of it is done.

        Computing begins with the first call. Of more than a few at once, some wait.

        Raises:
            HarvestError: it could not be computed; the next call tries again.
        """
        if harvest.progress is not None:
            raise HarvestError(f"{harvest.name} is in progress; come back when it is complete.")
        with self._lock:
            for root in self._roots():
                folder = folder_of(root, harvest, kind)
                if folder.is_dir():
                    return folder
            folder = folder_of(self._writable(harvest), harvest, kind)
            work = self._work.get(folder)
            if work is not None and work.ended:
                del self._work[folder]
                raise HarvestError(work.error or "It could not be computed; load the page again.")
            if work is None:
                if sum(not other.ended for other in self._work.values()) >= _AT_ONCE:
                    return Work()
                work = self._work[folder] = Work()
                threading.Thread(
                    target=self._compute, args=(harvest.name, kind, folder, work), daemon=True
                ).start()
            return work

    def _roots(self) -> list[Path]:
        mine = [] if self._temporary is None else [Path(self._temporary.name)]
        return [viewer_cache_root(), *mine]

    def _writable(self, harvest: Harvest) -> Path:
        """The cache, or a temporary folder where that cannot be written."""
        root = viewer_cache_root()
        try:
            (root / harvest.name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root / harvest.name):
                return root
        except OSError:
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="harvest_assets-")
            return Path(self._temporary.name)

    def _compute(self, name: str, kind: Kind, folder: Path, work: Work) -> None:
        command = [sys.executable, "-m", __name__, kind, name, str(folder)]
        lines: list[str] = []
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout or ():
            try:
                work.share = float(line)
            except ValueError:
                lines = [*lines[-20:], line.strip()]
        process.wait()
        with self._lock:
            if process.returncode == 0:
                del self._work[folder]
                return
            ours = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
            work.error = ours[-1] if ours else f"It could not be computed: {(lines or ['?'])[-1]}"
            work.ended = True


def folder_of(root: Path, harvest: Harvest, kind: str) -> Path:
    """The folder below a cache for the harvest as it is, with the vocabulary that it has now."""
    return root / harvest.name / f"{kind}-{harvest.version}-{harvest.vocabulary.size:x}"


def read_array(path: Path, kinds: str, ndim: int) -> NDArray[Any]:
    """An array that a builder wrote, memory-mapped: anybody may have replaced it since.

    Args:
        path: of the file.
        kinds: of its numbers, as NumPy's `dtype.kind`.
        ndim: dimensions.

    Raises:
        ValueError: it is missing, damaged, or another array.
    """
    if not path.is_file():  # opening a pipe would wait
        raise ValueError(f"{path.name} is missing")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the reader of a damaged header raises what it runs into
        raise ValueError(f"{path.name}: {reason_of(error)}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"{path.name} is another array")
    return array


def compute(harvest: Harvest, kind: str, folder: Path, progress: Callable[[float], None]) -> None:
    """Fill a new folder, which appears complete or not at all; older ones of its kind are removed.

    Args:
        harvest: a finished one.
        kind: one of `Kind`.
        folder: to make.
        progress: called with the share that is done, from 0 to 1.

    Raises:
        HarvestError: the harvest is damaged.
        OSError: the folder cannot be written.
    """
    sweep(folder.parent)
    temporary = temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        import_module(_BUILDERS[kind]).build(harvest, temporary, progress)
        older = [path for path in folder.parent.glob(f"{kind}-*") if path != folder]
        if not folder.exists():  # else another server made it meanwhile
            temporary.rename(folder)
        for path in older:
            remove(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(kind: str, name: str, folder: str) -> int:
    """The process: prints the shares that are done, and an error in a line that begins as ours."""
    import os

    from harvest_assets.viewer.library import Library

    os.nice(_NICE)
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if share - last >= 0.01:  # noqa: PLR2004
            last = share
            print(f"{share:.2f}", flush=True)

    try:
        harvest = Library().get(name)
        if folder_of(Path(), harvest, kind).name != Path(folder).name:
            raise HarvestError(f"The files of {name} have just changed; load the page again.")
        compute(harvest, kind, Path(folder), progress)
    except (HarvestError, OSError, MemoryError) as error:
        print(f"{_ERROR}{presentable(str(error) or 'There is too little memory.')}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
