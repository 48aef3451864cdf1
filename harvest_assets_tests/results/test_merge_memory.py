"""Memory that a merge takes, whatever the number of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.merging import MergeSize, measure_merge

pytestmark = pytest.mark.slow


def test_sixteen_shards_take_no_more_memory_than_two(tmp_path: Path):
    two, sixteen = (
        max(
            measure_merge(
                MergeSize(n_shards, n_components=2000, vocab_size=2048, k=300),
                tmp_path / str(n_shards),
            ).peak_bytes.values()
        )
        for n_shards in (2, 16)
    )
    assert sixteen < 1.1 * two
