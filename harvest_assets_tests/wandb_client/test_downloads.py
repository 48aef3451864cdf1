"""What a download leaves when its process is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import wandb

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.orchestration.wandb.inspection import inspect_run
from harvest_assets.store.garbage import free, removable
from harvest_assets.wandb_client.files import download_files, list_files
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets_tests.orchestration.soak.events import Fault
from harvest_assets_tests.orchestration.soak.unreliable_wandb import UnreliableWandb

NAME = RunName("ent", "proj", "s-00000001")
# Prints when the file is half written, and never ends by itself.
KILLED = """
import sys, time
from pathlib import Path
from harvest_assets.wandb_client.files import download_files
from harvest_assets.wandb_client.run_name import RunName

class File:
    name, size = "model_1.pth", 8
    def download(self, root, replace):
        Path(root, self.name).write_bytes(b"half")
        print("half", flush=True)
        time.sleep(600)

files = {"model_1.pth": File()}
download_files(RunName("ent", "proj", "s-00000001"), files, list(files), Path(sys.argv[1]))
"""


class _File:
    name, size = "model_1.pth", 8

    def download(self, root: str, *, replace: bool):
        assert replace
        path = Path(root, self.name)
        path.write_bytes(b"complete")
        return path.open("rb")


def killed_download(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert len(list(folder.parent.iterdir())) == 2, "the folder, and what was being downloaded"


def test_the_next_download_sweeps_it(out_dir: Path):
    folder = out_dir / "runs" / "proj-s-00000001"
    killed_download(folder)
    download_files(NAME, {"model_1.pth": _File()}, ["model_1.pth"], folder)
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "model_1.pth").read_bytes() == b"complete"


def test_clean_lists_and_frees_it(out_dir: Path):
    folder = out_dir / "runs" / "proj-s-00000001"
    killed_download(folder)
    older = out_dir / "pretrain_cache" / ".proj-t-00000001.download-abcd"
    older.mkdir(parents=True)
    (older / "model_step_1.pt").write_bytes(b"half")
    assert len(removable()) == 1, "of an older version, a recent one may still be written"
    for path in (older / "model_step_1.pt", older):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    items = removable()
    assert sorted(item.n_bytes for item in items) == [4, 4]
    free(items)
    assert list(folder.parent.iterdir()) == [folder]
    assert not older.exists()


def test_which_errors_may_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Refusals, connections that break off and odd answers may pass; a wrong key does not."""
    content = b"x" * 100_000
    with UnreliableWandb(seed=0) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        run = server.add_run(NAME.key, {"model_1.pth": content}, odd={"config": "["})
        with pytest.raises(TransientError):
            list_files(NAME)
        with pytest.raises(HarvestError) as caught:
            inspect_run(NAME.key)
        assert not isinstance(caught.value, TransientError), "a poll goes on to the next run"
        run.odd = {}
        files = list_files(NAME)
        for fault in (Fault.BROKEN_OFF, None):
            server.fault = fault
            raises = pytest.raises(TransientError) if fault else nullcontext()
            with raises:
                download_files(NAME, files, ["model_1.pth"], tmp_path / "run")
        assert (tmp_path / "run/model_1.pth").read_bytes() == content
        for status, passes in ((403, True), (401, False)):
            server.status = status
            with pytest.raises(HarvestError) as caught:
                list_files(NAME)
            assert isinstance(caught.value, TransientError) == passes, status
            with pytest.raises(HarvestError) as caught:
                inspect_run(NAME.key)
            assert not isinstance(caught.value, TransientError), "a poll goes on to the next run"
    wandb.teardown()  # the client keeps the server's address
