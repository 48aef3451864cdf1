"""A reader of harvests, written from `docs/format.md` alone; imports nothing of the package."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file


class Reader:
    """One harvest below an `SPD_OUT_DIR`."""

    def __init__(self, out_dir: Path, name: str) -> None:
        self.out_dir, self.root = out_dir, out_dir / "harvest" / name
        self.contexts = self.root / "activation_contexts"
        self.components = [json.loads(it) for it in (self.contexts / "components.jsonl").open()]
        self.correlations = self.tensors("component_correlations")
        self.token_stats = self.tensors("token_stats")

    @staticmethod
    def json(path: Path) -> Any:
        return json.loads(path.read_text("utf-8"))

    def tensors(self, name: str) -> dict[str, Any]:
        return torch.load(self.root / "correlations" / f"{name}.pt", weights_only=True)

    def table(self, name: str) -> list[dict[str, Any]]:
        return pq.read_table(self.contexts / f"{name}.parquet").to_pylist()

    def line(self, offset: int, length: int) -> dict[str, Any]:
        with (self.contexts / "components.jsonl").open("rb") as file:
            file.seek(offset)
            return json.loads(file.read(length))

    def rows(self) -> np.ndarray:
        """The token rows in harvest order."""
        folder = self.out_dir / "data" / self.json(self.root / "token_rows.json")["fingerprint"]
        stored, parts = self.json(folder / "rows.json"), []
        for file in stored["files"]:
            opener = pa.ipc.open_file if file["form"] == "file" else pa.ipc.open_stream
            column = opener(pa.memory_map(str(folder / file["path"]))).read_all()[file["column"]]
            parts += column.to_pylist()
        order = np.load(folder / stored["order"]) if stored["order"] else range(stored["n_rows"])
        return np.array([parts[i] for i in order])

    def state(self) -> dict[str, np.ndarray]:
        folder = self.json(self.root / "merged" / "current.json")["directory"]
        return load_file(self.root / "merged" / folder / "state" / "statistics.safetensors")

    def input_pmi(self, c: int, token: int) -> float:
        stats = self.token_stats
        joint, n = float(stats["input_counts"][c, token]), stats["n_tokens"]
        return math.log(joint * n / (stats["firing_counts"][c] * stats["input_totals"][token]))
