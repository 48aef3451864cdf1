"""Driving a model over rows: every row with its own neighbours, however the rows are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester import HarvesterState
from harvest_assets.harvester.stream import harvest_rows
from harvest_assets_tests.harvester.rows import Setup, all_examples, assert_same

SETUP = Setup((("a", 6),), 7, k=10, side=2)
N_ROWS, LENGTH, GROUP = 23, 5, 4


@dataclass
class Answer:
    output_probs: torch.Tensor
    firing_strengths: torch.Tensor
    second_values: torch.Tensor | None = None


class Source:
    def __init__(self):
        tokens = np.random.default_rng(0).integers(0, 7, (N_ROWS, LENGTH))
        self.tokens = torch.from_numpy(tokens)
        self.n_rows = N_ROWS

    def rows(self, start, stop):
        return self.tokens[start:stop]


def model(tokens):
    """Like a real one, it answers a little differently for other neighbours."""
    assert tokens.shape == (GROUP, LENGTH)
    place = torch.arange(LENGTH)[:, None]
    own = tokens[..., None] * 31 + place * 7 + torch.arange(7)
    neighbours = (tokens * torch.arange(1, GROUP + 1)[:, None]).sum()
    values = torch.frac((own + neighbours / 1024) * 0.618034)
    return Answer(values, values[..., :6], -values[..., :6])


def harvested(rows, batch_size=8, **changes):
    harvester = SETUP.harvester()
    settings = {"model": model, "source": Source(), "rows_per_forward": GROUP, **changes}
    harvest_rows(harvester, rows=rows, batch_size=batch_size, **settings)
    return harvester.state()


@pytest.mark.parametrize("cuts", [(), (1,), (4, 8), (3, 6, 17, 22), tuple(range(1, N_ROWS))])
def test_any_shares_of_the_rows(cuts):
    whole = harvested(range(N_ROWS))
    assert whole.total_tokens_processed == N_ROWS * LENGTH
    shares = [range(*ends) for ends in zip((0, *cuts), (*cuts, N_ROWS), strict=True)]
    states = [harvested(share, batch_size=3) for share in shares]
    assert_same(HarvesterState.merge(states), whole, 6)


def test_a_share_without_rows():
    for start in (0, 5, N_ROWS):
        state = harvested(range(start, start))
        assert state.total_tokens_processed == 0
        assert all_examples(state, 6) == [[]] * 6


def test_progress_is_reported():
    reported = []
    harvested(range(3, 14), on_progress=reported.append)
    assert reported == [1, 5, 9, 11]


def test_a_foreign_token_is_named_and_never_reaches_the_model():
    source = Source()
    source.tokens[14, 2] = 7
    seen = []

    def watched(tokens):
        seen.append(int(tokens.max()))
        return model(tokens)

    with pytest.raises(HarvestError, match=r"(?s)[Bb]atch.*1.*14.*7"):
        harvested(range(N_ROWS), source=source, model=watched)
    assert max(seen) < 7


def test_a_nan_is_named_by_its_batch():
    def broken(tokens):
        answer = model(tokens)
        answer.firing_strengths[:] = float("nan")
        return answer

    with pytest.raises(HarvestError, match=r"[Bb]atch 2\b"):
        harvested(range(16, N_ROWS), model=broken)


@pytest.mark.parametrize("cut", [(), (5,), (6, 11)])
def test_a_group_too_large_for_memory_is_halved_once(cut):
    """And nothing of it is counted before."""
    sizes = []

    def narrow(tokens):
        sizes.append(len(tokens))
        if len(tokens) > GROUP // 2:
            raise torch.OutOfMemoryError
        values = torch.frac((tokens[..., None] * 31 + torch.arange(7)) * 0.618034)
        return Answer(values, values[..., :6], -values[..., :6])

    def wide(tokens):
        halves = [_fields(narrow(half)) for half in tokens.split(GROUP // 2)]
        return Answer(*(torch.cat(parts) for parts in zip(*halves, strict=True)))

    ends = zip((0, *cut), (*cut, N_ROWS), strict=True)
    states = [harvested(range(*pair), model=narrow) for pair in ends]
    assert sizes.count(GROUP) == len(states)
    assert_same(HarvesterState.merge(states), harvested(range(N_ROWS), model=wide), 6)


def _fields(answer):
    return answer.output_probs, answer.firing_strengths, answer.second_values


def test_too_little_memory_is_reported():
    def never(_tokens):
        raise torch.OutOfMemoryError

    with pytest.raises(HarvestError, match=r"Batch 0: cpu .* memory"):
        harvested(range(N_ROWS), model=never)
