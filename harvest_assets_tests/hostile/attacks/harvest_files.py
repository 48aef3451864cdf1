"""Attacks on the small files of a harvest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease, holder_of, is_held
from harvest_assets.orchestration.progress import read_progress
from harvest_assets_tests.hostile.attacks.payloads import JSON, with_values
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused
from harvest_assets_tests.hostile.readers.reader import put

for _reader in (
    "plan",
    "run-checkpoint",
    "token-rows",
    "registration",
    "state",
    "shard",
    "pointer",
):
    byte_attacks("small files of a harvest", _reader, JSON)
byte_attacks("small files of a harvest", "result-config", JSON)


byte_attacks(
    "small files of a harvest",
    "plan",
    {
        "shards of 10^9": with_values(n_shards=10**9),
        "a batch of a text": with_values(batch_size="8"),
        "a batch of a fraction": with_values(batch_size=8.5),
        "a batch that is true": with_values(batch_size=True),
        "a context of nothing": with_values(context_length=None),
        "a run that is a list": with_values(run=["a"]),
        "what no plan has": with_values(extra=1),
        "a threshold of a text": with_values(ci_threshold="0"),
        "a version of a list": with_values(plan_version=[3]),
    },
)
byte_attacks(
    "small files of a harvest",
    "run-checkpoint",
    {
        "layers of a text": with_values(layers="ab"),
        "components of a text": with_values(layers=[["a", "3"]]),
        "a path of a number": with_values(config_path=3),
        "a vocabulary of a list": with_values(vocab_size=[9]),
    },
)
byte_attacks(
    "small files of a harvest",
    "token-rows",
    {
        "rows above their folder": with_values(fingerprint=".."),
        "rows elsewhere": with_values(fingerprint="/etc"),
        "rows of a long name": with_values(fingerprint="a" * 300),
        "rows of a number": with_values(fingerprint=3),
        "rows of another script": with_values(fingerprint="é"),
        "less than no rows": with_values(n_rows=-1),
        "rows of no tokens": with_values(n_ctx=0),
    },
)
byte_attacks(
    "small files of a harvest",
    "registration",
    {
        "a folder above": with_values(out_name=".."),
        "a folder elsewhere": with_values(out_name="../../x"),
        "a folder of a number": with_values(out_name=3),
        "a path of a list": with_values(path=["a"]),
        "a long folder": with_values(out_name="x" * 300),
    },
)
byte_attacks(
    "small files of a harvest",
    "pointer",
    {
        "the folder above": with_values(directory=".."),
        "its own folder": with_values(directory="."),
        "an absolute folder": with_values(directory="/etc"),
        "a way out": with_values(directory="../../../outside"),
        "what is saved": with_values(directory="saved"),
        "a long name": with_values(directory="x" * 300),
        "a list of folders": with_values(directory=["a"]),
    },
)
byte_attacks(
    "small files of a harvest",
    "shard",
    {
        "rows of a text": with_values(first_row="0"),
        "rows that end before they begin": with_values(first_row=5, last_row=3),
        "rows below 0": with_values(first_row=-5),
        "rows to 2^63": with_values(last_row=1 << 63),
        "another version": with_values(format_version=99),
    },
)


@attack("small files of a harvest", "leases of nobody")
def _(folder: Path) -> bool:
    path = folder / "leases" / "merge.json"
    path.parent.mkdir()
    pids = ("abc", -1, 0, 10**18, 10**30, [1], None, 1.5, True)
    for pid in pids:
        put(path, json.dumps({"host": _host(), "pid": pid, "token": "x", "started": "1"}).encode())
        os.utime(path, (0, 0))
        if is_held(path):
            return False
        with hold_lease(path, "The merge"):
            pass
    for content in JSON.values():
        put(path, content)
        os.utime(path, (0, 0))
        if is_held(path) or holder_of(path):
            return False
    return True


def _host() -> str:
    from harvest_assets.files.atomic import host_name

    return host_name()


@attack("small files of a harvest", "temporary files of a process of 30 digits")
def _(folder: Path) -> bool:
    from harvest_assets.files.atomic import abandoned

    (folder / f".x.{_host()}-{'9' * 30}-{'0' * 32}.tmp").touch()
    return len(abandoned(folder)) == 1


@attack("small files of a harvest", "progress of what is no number")
def _(folder: Path) -> bool:
    path = folder / "progress.json"
    good = {"rows_done": 1, "rows": 2, "tokens_per_row": 3, "seconds": 4.0}
    changes: list[dict[str, Any]] = [{name: "x"} for name in good]
    changes += [{name: [1]} for name in good] + [{"seconds": None}, {"rows": True}, {"more": 1}]
    contents = [json.dumps(good | change).encode() for change in changes]
    contents += list(JSON.values())
    return all(read_progress(put(path, content)) is None for content in contents)


@attack("small files of a harvest", "a pipe instead of a file")
def _(folder: Path) -> bool:
    from harvest_assets.store.plan import HarvestPlan

    os.mkfifo(folder / "plan.json")
    os.mkfifo(folder / "model_1.pth")
    return refused(lambda: HarvestPlan.open(folder)) and refused(
        lambda: Checkpoint.open(folder / "model_1.pth")
    )


@attack("small files of a harvest", "a device instead of a file")
def _(folder: Path) -> bool:
    from harvest_assets.store.plan import HarvestPlan

    (folder / "plan.json").symlink_to("/dev/zero")
    (folder / "model_1.pth").symlink_to("/dev/zero")
    return refused(lambda: HarvestPlan.open(folder)) and refused(
        lambda: Checkpoint.open(folder / "model_1.pth")
    )


@attack("small files of a harvest", "a manifest that names files elsewhere")
def _(folder: Path) -> bool:
    from harvest_assets.files import manifest

    paths = HarvestLayout(folder / "harvest")
    for name in ("../outside/kept", "/etc/passwd", "a/../../outside/kept", ""):
        entries = {"files": {name: {"size": 6, "sha256": "0", "plan": "x"}}}
        paths.root.mkdir(exist_ok=True)
        put(paths.manifest, json.dumps(entries).encode())
        problems = manifest.disagreements(paths, deep=True)
        if manifest.read(paths) or any("kept" in problem for problem in problems):
            return False
    return True
