"""The firing of a window is where it was cut around, whenever the window says so."""

from __future__ import annotations

import random

import pytest

from harvest_assets.sharing.windows import centers


@pytest.mark.parametrize(("row_length", "per_side"), [(16, 3), (5, 3), (4, 3), (7, 3), (3, 0)])
def test_the_firing_is_among_the_places_and_no_place_is_without_reason(row_length, per_side):
    """Every window of every position of random rows, cut here by slicing."""
    draw, single = random.Random(0), 0
    for _ in range(300):
        row = [draw.random() < 0.4 for _ in range(row_length)]
        cuts = {}
        for position in range(row_length):
            start = max(0, position - per_side)
            window = row[start : position + per_side + 1]
            cuts.setdefault(len(window), set()).add(position - start)
            if row[position]:
                found = centers(window, per_side, row_length)
                assert position - start in found
                single += len(found) == 1
        for position in range(row_length):
            start = max(0, position - per_side)
            window = row[start : position + per_side + 1]
            expected = sorted(place for place in cuts[len(window)] if window[place])
            if expected:
                assert centers(window, per_side, row_length) == expected
    assert single


def test_rows_of_unknown_length_are_longer_than_a_window():
    assert centers([True] * 7, 3, None) == [3]
    assert centers([True] * 5, 3, None) == [1, 3]
    assert centers([False, True, True, False, True], 3, None) == [1]


@pytest.mark.parametrize("firings", [[], [True] * 8, [True] * 3, [True, False, True, False, True]])
def test_a_window_without_such_a_place_is_refused(firings):
    with pytest.raises(ValueError, match="middle"):
        centers(firings, 3, 16)
