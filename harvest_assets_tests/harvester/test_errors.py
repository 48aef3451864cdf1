"""Bad batches: named, and never part of a state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets_tests.harvester.rows import (
    DEVICES,
    Setup,
    assert_identical,
    assert_same,
    feed,
    harvest,
    random_rows,
)

SETUP = Setup((("a", 5), ("b", 4)), 7, k=20, side=1)
FIRST_ROW = 98_304
TOKENS, CI, PROBS, ACTS = range(4)


@pytest.fixture
def rows():
    return random_rows(np.random.default_rng(0), SETUP, 24, 9)


def spoiled(rows, which, value):
    """A batch with one bad value, in its last row and at its last position."""
    tensors = list(rows.part(8, 16).tensors())
    tensors[which].view(-1)[-1] = value
    return tensors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("which", [CI, PROBS, ACTS])
def test_a_number_that_is_none(rows, which, value, device):
    refuse_and_go_on(rows, spoiled(rows, which, value), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("token", [-1, 7, 2**31, 2**40, -(2**63)])
def test_a_token_outside_the_vocabulary(rows, token, device):
    refuse_and_go_on(rows, spoiled(rows, TOKENS, token), device)


def test_opposite_infinities_that_do_not_show_in_a_sum(rows):
    for which in (CI, PROBS, ACTS):
        tensors = spoiled(rows, which, float("inf"))
        tensors[which].view(-1)[0] = float("-inf")
        refuse_and_go_on(rows, tensors, "cpu")


def process_until_refused(harvester, bad, first_row):
    """A flag on a GPU may be read when the state is asked for, not on the CPU."""
    harvester.process_batch(*bad, first_row)
    assert bad[TOKENS].is_cuda, "the batch was not refused"
    harvester.state()


def refuse_and_go_on(rows, bad, device):
    """The error names the rows; the state is as before, and good batches still come in."""
    harvester = SETUP.harvester(device)
    feed(harvester, rows, 0, 8, FIRST_ROW, device)
    before = harvester.state()
    bad = [tensor.to(device) for tensor in bad]
    with pytest.raises((HarvestError, ValueError)) as caught:
        process_until_refused(harvester, bad, FIRST_ROW + 8)
    assert str(FIRST_ROW + 8) in str(caught.value)
    assert len(str(caught.value).split()) > 3
    if device == "cpu":
        assert_identical(harvester.state(), before, SETUP.n_components)
        feed(harvester, rows, 8, 24, FIRST_ROW, device)
        assert_same(harvester.state(), harvest(SETUP, rows, FIRST_ROW), SETUP.n_components)


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_bad_value_in_any_part_of_a_large_batch(where):
    """However the work is cut inside, nothing of the batch is counted."""
    setup = Setup((("a", 3),), 2, k=5, side=1)
    harvester = setup.harvester()
    tokens = torch.zeros(64, 1024, dtype=torch.int64)
    ones = torch.ones(64, 1024, 3)
    probs = torch.ones(64, 1024, 2)
    harvester.process_batch(tokens, ones, probs, ones, 0)
    before = harvester.state()
    place = 0 if where == "first" else -1
    for which, value in (
        (TOKENS, 2),
        (CI, float("nan")),
        (PROBS, float("nan")),
        (ACTS, -float("inf")),
    ):
        bad = [tokens.clone(), ones.clone(), probs.clone(), ones.clone()]
        bad[which].view(-1)[place] = value
        with pytest.raises((HarvestError, ValueError), match="4096"):
            harvester.process_batch(*bad, 4096)
        assert_identical(harvester.state(), before, 3)


def test_negative_ci_and_ci_above_one_are_no_errors(rows):
    assert (rows.ci < 0).any()
    assert (rows.ci > 1).any()
    assert harvest(SETUP, rows).total_tokens_processed == rows.tokens.size


WRONG_SHAPES = {
    "flat tokens": (TOKENS, lambda t: t.flatten()),
    "tokens of a row less": (TOKENS, lambda t: t[:-1]),
    "tokens of a position less": (TOKENS, lambda t: t[:, :-1]),
    "tokens with a third dimension": (TOKENS, lambda t: t[..., None]),
    "CI of a component less": (CI, lambda t: t[..., :-1]),
    "CI of one component": (CI, lambda t: t[..., :1]),
    "CI of a row less": (CI, lambda t: t[:-1]),
    "CI of one row": (CI, lambda t: t[:1]),
    "CI of a position less": (CI, lambda t: t[:, :-1]),
    "CI without rows and positions apart": (CI, lambda t: t.flatten(0, 1)),
    "CI in another order": (CI, lambda t: t.transpose(0, 1)),
    "probabilities of a token less": (PROBS, lambda t: t[..., :-1]),
    "probabilities of a token more": (PROBS, lambda t: torch.cat([t, t[..., :1]], -1)),
    "probabilities of one position": (PROBS, lambda t: t[:, :1]),
    "activations of a component less": (ACTS, lambda t: t[..., :-1]),
    "activations of a component more": (ACTS, lambda t: torch.cat([t, t[..., :1]], -1)),
    "activations of one row": (ACTS, lambda t: t[:1]),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes_are_refused(rows, name):
    which, change = WRONG_SHAPES[name]
    tensors = list(rows.part(0, 8).tensors())
    tensors[which] = change(tensors[which])
    refuse_as_given(tensors, 0)


def test_tokens_that_are_no_integers_are_refused(rows):
    tokens, *others = rows.part(0, 8).tensors()
    refuse_as_given((tokens.float(), *others), 0)


def test_a_row_before_the_first_is_refused(rows):
    refuse_as_given(rows.part(0, 8).tensors(), -1)


def refuse_as_given(tensors, first_row):
    harvester = SETUP.harvester()
    before = harvester.state()
    with pytest.raises((HarvestError, ValueError, TypeError)) as caught:
        harvester.process_batch(*tensors, first_row)
    assert len(str(caught.value).split()) > 3
    assert_identical(harvester.state(), before, SETUP.n_components)


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": ()},
        {"layers": (("a", 0),)},
        {"vocab_size": 0},
        {"k": -1},
        {"side": -1},
    ],
    ids=lambda bad: "-".join(map(str, *bad.items())),
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises((HarvestError, ValueError)) as caught:
        Setup(**{**vars(SETUP), **bad}).harvester()
    assert len(str(caught.value).split()) > 3
