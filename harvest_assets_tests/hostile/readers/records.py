"""Readers of the records beside the results."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import hold_lease, holder_of, is_held
from harvest_assets.files.manifest import disagreements, read
from harvest_assets.orchestration.progress import ProgressWriter, read_progress
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import registration_of
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets_tests.files.sealed import sealed
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import put, put_sealed


class Plan(OfHarvest):
    """`plan.json`, its digest made to fit where that is possible."""

    FILE = "plan.json"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        try:
            value = json.loads(content)
            fields = {k: v for k, v in value.items() if k not in ("plan_version", "digest")}
            value["digest"] = HarvestPlan(**fields).digest
            put(self.file, json.dumps(value).encode())
        except (ValueError, TypeError, AttributeError, RecursionError, HarvestError):
            pass
        plan = HarvestPlan.open(self.paths.root)
        assert 1 <= plan.n_shards <= 16
        assert type(plan.batch_size) is int
        assert plan.batch_size > 0
        plan.share(0, 10_000)
        plan.compatibility_digest("0")


class RunCheckpointFile(OfHarvest):
    """`run_checkpoint.json`."""

    FILE = "run_checkpoint.json"

    def seeds(self) -> list[bytes]:
        checkpoint = RunCheckpoint(
            "local/a/x-aaaaaaaa", "/c.yaml", "/m.pth", 3, "0" * 64, (("h", 3),), 9, None, 8, "t", 9
        )
        stamped = dataclasses.replace(checkpoint, file_stamps=((7, 1, 2, 3), (9, 1, 2, 4)))
        stamped.write(self.paths.root)
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        opened = open_decomposition(self.paths.root)
        assert type(opened.n_components) is int
        Path(opened.config_path).exists()


class Rows(OfHarvest):
    """`token_rows.json`."""

    FILE = "token_rows.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        rows = SharedTokenRows.open(self.paths.root)
        assert rows.directory.parent.name == "data"
        assert rows.fingerprint.isalnum()


class Manifest(OfHarvest):
    """`manifest.json`."""

    FILE = "manifest.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        assert all(isinstance(problem, str) for problem in disagreements(self.paths))
        for name in read(self.paths):
            assert (self.paths.root / name).resolve().is_relative_to(self.paths.root.resolve())


class Lease(OfHarvest):
    """`leases/<work>.json`."""

    FILE = "leases/merge.json"

    def seeds(self) -> list[bytes]:
        older = b'{"host": "a", "pid": 12, "started": "3", "job": null, "token": ".merge.json"}'
        with hold_lease(self.file, "It"):
            return [self.file.read_bytes(), older]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        assert is_held(self.file) in (True, False)
        holder = holder_of(self.file)
        assert holder is None or holder.pid > 0


class Progress(OfHarvest):
    """`progress.json`."""

    FILE = "shards/00/progress.json"

    def seeds(self) -> list[bytes]:
        ProgressWriter(self.file, 8, 16, lambda _: None)(8)
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        str(read_progress(self.file))


class Registration(OfHarvest):
    """`registered/<entity>/<project>/<run_id>.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)

    @property
    def file(self) -> Path:
        return self.folder / "registered" / "local" / "a" / "x-aaaaaaaa.json"

    def seeds(self) -> list[bytes]:
        return [
            b'{"path": "/a/b", "out_name": "mine"}',
            b'{"path": null, "out_name": "x-aaaaaaaa"}',
            json.dumps(sealed({"format_version": 1, "path": None, "out_name": "b"})).encode(),
        ]

    def read(self, content: bytes) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        put_sealed(self.file, content)
        found = registration_of("local/a/x-aaaaaaaa")
        assert found.layout.root.parent == self.folder / "harvest"
