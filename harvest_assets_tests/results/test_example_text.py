"""Examples as JSON text, compared with numbers that Python and orjson write."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
import torch

from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.results.example_text import examples_text

LARGEST = np.float32(3.4028235e38)


def bits_of(values) -> np.ndarray:
    return np.asarray(values, np.float32).view(np.uint32)


def neighbours(values: np.ndarray) -> np.ndarray:
    """The values and the float32 next to each on both sides."""
    bits = bits_of(values).astype(np.int64)
    near = np.concatenate([bits - 1, bits, bits + 1])
    return near[(near >= 0) & (near <= int(bits_of([LARGEST])[0]))].astype(np.uint32)


def hard_values() -> np.ndarray:
    """Powers of two and ten with their neighbours, short decimals, and bits at random."""
    random = np.random.default_rng(0).integers(0, int(bits_of([LARGEST])[0]) + 1, 200_000)
    bits = [
        neighbours(np.exp2(np.arange(-149.0, 128)).astype(np.float32)),
        neighbours(np.array([f"1e{k}" for k in range(-45, 39)], np.float32)),
        bits_of([f"{m}e{k}" for m in range(1, 1000) for k in range(-12, 14)]),
        bits_of(np.arange(1 << 16)),
        np.arange(1000),  # the smallest
        random,
    ]
    positive = np.unique(np.concatenate(bits).astype(np.uint32)).view(np.float32)
    return np.concatenate([positive, -positive])


def table(tokens: np.ndarray, values: np.ndarray) -> ExampleTable:
    columns = {"token_ids": tokens, "ci_values": values, "component_acts": values[:, ::-1].copy()}
    empty = ExampleTable.empty(tokens.shape[1])
    return empty._replace(**{name: torch.from_numpy(array) for name, array in columns.items()})


def test_every_kind_of_float_has_its_shortest_digits():
    values = hard_values()
    values = values[: len(values) // 3 * 3].reshape(-1, 3)
    text = examples_text(table(np.zeros(values.shape, np.int32), values))
    assert text == orjson.dumps(
        [
            {"token_ids": [0, 0, 0], "ci_values": row, "component_acts": row[::-1].copy()}
            for row in values
        ],
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    # numpy's own shortest digits, written by another algorithm.
    examples = json.loads(text, parse_float=str)
    written = [example["ci_values"] for example in examples[:3000:7]]
    for row, numbers in zip(values[:3000:7], written, strict=True):
        for value, number in zip(row, numbers, strict=True):
            assert np.float32(number) == value
            assert float(number) == float(np.format_float_scientific(value, unique=True))


@pytest.mark.parametrize("token", [-1, 0, 9, 10, 99, 100, 50257, (1 << 31) - 1])
def test_tokens(token: int):
    (example,) = json.loads(
        examples_text(table(np.array([[token]], np.int32), np.zeros((1, 1), np.float32)))
    )
    assert example == {"token_ids": [token], "ci_values": [0.0], "component_acts": [0.0]}


def test_no_examples():
    assert examples_text(ExampleTable.empty(3)) == b"[]"
