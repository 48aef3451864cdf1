"""The rows of tokens that training saw, by the words of the contract and nothing else."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoTokenizer


class Spec(Protocol):
    """What determines them."""

    dataset_name: str
    tokenizer_name: str
    n_ctx: int
    seed: int
    shuffle_each_epoch: bool


def group_rows(
    texts: list[str], tokenizer: Any, spec: Spec, *, special_tokens: bool = True
) -> list[list[int]]:
    """One group of texts, by the words of the contract and nothing else."""
    eos = tokenizer.eos_token
    joined = eos.join(texts)
    length = (len(joined) - 1) // 20 + 1
    tokens: list[int] = []
    for i in range(20):
        piece = joined[i * length : (i + 1) * length]
        if "SimpleStories" in spec.dataset_name:
            piece = piece.replace(eos.lower(), eos)
        tokens += tokenizer.encode(piece, add_special_tokens=special_tokens)
    n_rows = len(tokens) // spec.n_ctx
    return [tokens[i * spec.n_ctx : (i + 1) * spec.n_ctx] for i in range(n_rows)]


def text_rows(texts: list[str], spec: Spec, *, special_tokens: bool = True) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(spec.tokenizer_name)
    n, k = len(texts), min(10, len(texts))
    rows: list[list[int]] = []
    start = 0
    for part in range(k):
        size = n // k + (1 if part < n % k else 0)
        mine = texts[start : start + size]
        start += size
        for first in range(0, size, 1000):
            group = mine[first : first + 1000]
            rows += group_rows(group, tokenizer, spec, special_tokens=special_tokens)
    return rows


def permuted(items: list[Any], seed: int) -> list[Any]:
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def streamed(files: list[list[Any]], seed: int, buffer_size: int) -> list[Any]:
    """The rows of data files in stream order; `row_orders` has what `datasets` itself gives."""
    order = list(range(len(files)))
    np.random.default_rng(seed).shuffle(order)
    rows = [row for file in order for row in files[file]]
    generator = np.random.default_rng(seed)
    n_draws = max(0, len(rows) - buffer_size)
    draws = [generator.integers(0, buffer_size, 1000) for _ in range(-(-n_draws // 1000))]
    places = np.concatenate([*draws, np.empty(0, dtype=int)])[:n_draws]
    buffer, seen = rows[:buffer_size], []
    for place, row in zip(places, rows[buffer_size:], strict=True):
        seen.append(buffer[place])
        buffer[place] = row
    generator.shuffle(buffer)
    return seen + buffer


def through_loader(rows: list[list[int]], spec: Spec) -> torch.Tensor:
    """What a real shuffling `DataLoader` gives, one row a batch."""
    loader = torch.utils.data.DataLoader(
        torch.tensor(rows),  # type: ignore[arg-type]
        batch_size=1,
        shuffle=spec.shuffle_each_epoch,
        generator=torch.Generator().manual_seed(spec.seed),
    )
    return torch.cat(list(loader))
