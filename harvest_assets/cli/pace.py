"""How fast a shard is, measured on a few rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.data.data import DataSample
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.store.plan import HarvestPlan

if TYPE_CHECKING:
    import torch

_SECONDS_TIMED = 0.8
_GROUPS_TIMED = 9
_SECONDS_SLOW = 20.0  # a group that takes longer is timed once


@dataclass(frozen=True)
class Pace:
    """What a few rows say of a shard.

    Args:
        opening: seconds until it has done its first rows.
        tokens_per_second: after that.
        firing_rates: float64 [C], the share of positions at which each component fires.
    """

    opening: float
    tokens_per_second: float
    firing_rates: NDArray[np.float64]


def measure_pace(
    checkpoint: Decomposition, plan: HarvestPlan, sample: DataSample, device: torch.device
) -> Pace:
    """Send rows through the model and the accumulator: the median of a few groups.

    Small groups are slow on a GPU, and a whole one takes seconds on a CPU: it is timed where a
    quarter of it is fast.

    Args:
        checkpoint: the run, restricted to the layers of the plan.
        plan: the settings.
        sample: its rows.
        device: to compute on.
    """
    import torch

    from harvest_assets.harvester import Harvester
    from harvest_assets.harvester.stream import add_answer
    from harvest_assets.store.harvester_settings import harvester_settings

    opened = time.perf_counter()
    model = checkpoint.open_model(device, ci_noise=plan.ci_noise, bf16=plan.bf16)
    harvester = Harvester.from_settings(harvester_settings(plan, checkpoint), device)
    rows = torch.from_numpy(sample.rows[: plan.rows_per_forward(checkpoint.tokens_per_forward)])
    done = 0

    def add(group: torch.Tensor) -> tuple[float, Any]:
        nonlocal done
        started = time.perf_counter()
        answer = model(group.to(device))
        add_answer(harvester, group, answer, done)
        harvester.first_bad_row()  # waits for the device
        done += len(group)
        return time.perf_counter() - started, answer

    small, quarter = (rows[: max(1, len(rows) // share)] for share in (16, 4))
    add(small)
    opening = time.perf_counter() - opened
    warm, answer = add(quarter)
    firings = answer.firing_strengths > plan.ci_threshold
    rates = firings.double().mean(dim=(0, 1)).cpu().numpy()
    timed = rows if warm < _SECONDS_TIMED / 10 else quarter
    seconds: list[float] = []
    while warm < _SECONDS_SLOW and sum(seconds) < _SECONDS_TIMED and len(seconds) < _GROUPS_TIMED:
        seconds.append(add(timed)[0])
    return Pace(opening, timed.numel() / median(seconds or [warm]), rates)
