"""A module that defines a decomposition: written to a folder, with its data, for a harvest."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets_tests.tiny_run import VOCAB, text, write_tokenizer

LAYERS = {"early": 5, "late": 4}
KEYS = [f"{layer}:{c}" for layer, n in LAYERS.items() for c in range(n)]
N_CTX = 12

_SOURCE = '''
import os
import signal
from pathlib import Path

import torch

from harvest_assets.decompositions.own_model import OwnDecomposition

HERE = Path(__file__).parent
with (HERE / "imports.log").open("a") as log:
    log.write("x")


def function(tokens):
    """Component c fires by the token and the one before it."""
    with (HERE / "rows.log").open("a") as log:
        log.write("x" * len(tokens))
    if (HERE / "stop").exists() and len(tokens) > 1:
        (HERE / "stop").unlink()
        os.kill(os.getpid(), signal.SIGUSR1)
    before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
    c = torch.arange({n_components}, device=tokens.device)
    value = (tokens.unsqueeze(-1) * (c + 3) + before.unsqueeze(-1) * 7) % (11 + c) - 5.0
    logits = torch.nn.functional.one_hot(before, {vocab}) * 2.0
    return logits.softmax(-1), value.relu() / 4, {second}


decomposition = OwnDecomposition(
    function,
    {layers},
    {vocab},
    data={{"dataset_name": "./dataset", "column_name": "text", "max_seq_len": {n_ctx}}},
    tokenizer="./tokenizer",
    {options}
)
'''


def write_module(root: Path, *, second: str = "-value", name: str = "tiny_own", **options) -> Path:
    """Fill `root` with tokenizer, dataset and module; returns the module's file."""
    generator = random.Random(9)
    texts = [text(generator) for _ in range(150)]
    if not (root / "dataset").exists():
        (root / "dataset").mkdir(parents=True)
        pq.write_table(pa.table({"text": texts}), root / "dataset" / "train.parquet")
        write_tokenizer(root / "tokenizer", texts)
    options = {"tokens_per_forward": 8 * N_CTX, **options}
    source = _SOURCE.format(
        n_components=len(KEYS),
        vocab=VOCAB,
        layers=LAYERS,
        n_ctx=N_CTX,
        second=second,
        options=", ".join(f"{key}={value!r}" for key, value in options.items()),
    )
    file = root / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    return file


def by_loops(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Firing strengths and probabilities of tokens [rows, S]."""
    strengths = np.zeros((*tokens.shape, len(KEYS)))
    probs = np.full((*tokens.shape, VOCAB), 1 / (VOCAB - 1 + np.exp(2)))
    for (row, position), token in np.ndenumerate(tokens):
        before = int(tokens[row, position - 1]) if position else 0
        probs[row, position, before] *= np.exp(2)
        for c in range(len(KEYS)):
            value = (int(token) * (c + 3) + before * 7) % (11 + c) - 5
            strengths[row, position, c] = max(value, 0) / 4
    return strengths, probs


def n_imports(root: Path) -> int:
    """How often the module was executed."""
    return _length(root / "imports.log")


def n_rows_computed(root: Path) -> int:
    """How many rows its function has seen."""
    return _length(root / "rows.log")


def _length(log: Path) -> int:
    return len(log.read_text()) if log.exists() else 0
