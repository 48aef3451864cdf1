"""Slices of components that fired."""

from __future__ import annotations

import pytest
import torch

from harvest_assets.harvester.filled import joined, runs

FIRED = torch.tensor([True, True, True, False, True])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, [slice(0, 3), slice(4, 5)]),
        (2, [slice(0, 2), slice(2, 3), slice(4, 5)]),
        # A vocabulary so large that a block holds less than one component.
        (0, [slice(0, 1), slice(1, 2), slice(2, 3), slice(4, 5)]),
    ],
)
def test_a_slice_has_at_most_a_step(step: int | None, expected: list[slice]):
    assert [*runs(FIRED, step)] == expected


def test_slices_are_joined_over_short_gaps():
    parts = [slice(0, 2), slice(2, 3), slice(5, 6), slice(9, 10), slice(12, 13)]
    assert [*joined(parts, 2)] == [slice(0, 6), slice(9, 13)]
    assert [*joined(parts, 0)] == [slice(0, 3), *parts[2:]]
    assert [*joined([], 2)] == []
