"""Scores and intervals against their definitions."""

from __future__ import annotations

import math
import random

import pytest

from harvest_assets.autointerp.intervals import balanced_accuracy, binned, share
from harvest_assets.autointerp.scoring import score_trials
from harvest_assets.autointerp.trials import Context, Method, Trial

Z = 1.959963984540054


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (37, 50)])
def test_the_ends_of_wilsons_interval_are_where_the_test_just_does_not_reject(hits: int, n: int):
    found = share(hits, n)
    assert found.score == hits / n
    for end in (found.low, found.high):
        if 1e-9 < end < 1 - 1e-9:
            distance = abs(hits / n - end)
            assert distance == pytest.approx(Z * math.sqrt(end * (1 - end) / n))
    assert 0 <= found.low <= found.score <= found.high <= 1
    assert found.high - found.low > 0.2


def test_the_interval_of_balanced_accuracy_covers_the_truth():
    draw = random.Random(0)
    truth, covered = (0.8 + 0.6) / 2, 0
    for _ in range(1000):
        hits = sum(draw.random() < 0.8 for _ in range(25))
        rejected = sum(draw.random() < 0.6 for _ in range(10))
        found = balanced_accuracy(hits, 25, rejected, 10)
        assert found.score == pytest.approx((hits / 25 + rejected / 10) / 2)
        assert 0 <= found.low <= found.score <= found.high <= 1
        covered += found.low <= truth <= found.high
    assert covered > 920


def test_scores_are_counted_in_equal_bins():
    assert binned([0.0, 0.1, 0.3, 0.7, 0.95, 1.0], 10) == [1, 1, 0, 1, 0, 0, 0, 1, 0, 2]


def trial(method: Method, truth: tuple[bool, ...]) -> Trial:
    return Trial(method, "h:0", 0, tuple(Context((0,), 0, (0,)) for _ in truth), truth)


def test_scores_are_what_plain_loops_give():
    draw = random.Random(1)
    for method, n in ((Method.INTRUDER, 5), (Method.DETECTION, 10), (Method.FUZZING, 7)):
        trials, verdicts = [], []
        for _ in range(20):
            if method is Method.INTRUDER:
                places = [draw.randrange(n), draw.randrange(n)]
                truth, verdict = (tuple(i == place for i in range(n)) for place in places)
            else:
                truth = tuple(draw.sample([True] * 5 + [False] * (n - 5), n))
                verdict = tuple(draw.random() < 0.5 for _ in range(n))
            trials.append(trial(method, truth))
            verdicts.append(None if draw.random() < 0.2 else verdict)
        found = score_trials(trials, verdicts)
        kept = [(t.truth, v) for t, v in zip(trials, verdicts, strict=True) if v is not None]
        assert (found.n_trials, found.n_failed) == (len(kept), 20 - len(kept))
        if method is Method.INTRUDER:
            expected = sum(t == v for t, v in kept) / len(kept)
        else:
            pairs = [pair for t, v in kept for pair in zip(t, v, strict=True)]
            rates = []
            for kind in (True, False):
                said = [v == t for t, v in pairs if t is kind]
                rates.append(sum(said) / len(said))
            expected = sum(rates) / 2
        assert found.estimate.score == pytest.approx(expected)


def test_a_context_that_is_shown_again_adds_nothing_to_the_interval():
    def trials(n_places: int) -> list[Trial]:
        return [
            Trial(
                Method.DETECTION,
                "h:0",
                number,
                tuple(Context((0,), 0, (0,), ((10 * number + i) % n_places, 0)) for i in range(10)),
                (True, False) * 5,
            )
            for number in range(5)
        ]

    verdicts = [(True, True, *(True, False) * 4)] * 5
    few, many = (score_trials(trials(n), verdicts).estimate for n in (10, 1000))
    assert few.score == many.score == 0.9
    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_without_a_usable_answer_there_is_no_score():
    found = score_trials([trial(Method.INTRUDER, (True, False))] * 3, [None] * 3)
    assert found.estimate is None
    assert found.n_failed == 3
