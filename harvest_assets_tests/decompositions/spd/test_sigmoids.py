from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest_assets.decompositions.spd.run_config import SigmoidType
from harvest_assets.decompositions.spd.sigmoids import LOWER_LEAKY


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -500 else 0.0


def _clamp(x: float) -> float:
    return min(max(x, 0.0), 1.0)


FORMULAS = {
    "leaky_hard": _clamp,
    "hard": _clamp,
    "normal": _logistic,
    "upper_leaky_hard": lambda x: 1 + 0.01 * (x - 1) if x > 1 else _clamp(x),
    "half_sin": lambda x: 0.5 + 0.5 * math.sin(x),
    "swish_hard": lambda x: 1 - x + (x - 1) * _logistic(10 * (1 - x)) + x * _logistic(10 * x),
}


def test_every_sigmoid_type_of_a_config_is_there():
    assert set(LOWER_LEAKY) == set(get_args(SigmoidType)) == set(FORMULAS)


@pytest.mark.parametrize("kind", FORMULAS)
@settings(deadline=None)
@given(x=st.floats(-60, 60, width=32))
def test_sigmoids_are_the_formulas(kind: str, x: float):
    found = LOWER_LEAKY[kind](torch.tensor([x], dtype=torch.float32)).item()
    assert found == pytest.approx(FORMULAS[kind](x), rel=1e-6, abs=2e-7 * max(1, abs(x)))


def test_nothing_is_clipped_beyond_the_formula():
    x = torch.tensor([3.0])
    assert LOWER_LEAKY["upper_leaky_hard"](x).item() == pytest.approx(1.02)
    assert LOWER_LEAKY["swish_hard"](torch.tensor([0.9])).item() > 0.9
    below = LOWER_LEAKY["swish_hard"](torch.tensor([-0.1])).item()
    assert below == pytest.approx(FORMULAS["swish_hard"](-0.1))


@pytest.mark.parametrize("kind", FORMULAS)
def test_nan_stays_nan(kind: str):
    assert LOWER_LEAKY[kind](torch.tensor([math.nan])).isnan().all()
