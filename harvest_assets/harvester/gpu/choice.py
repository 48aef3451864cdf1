"""Whether a device uses the kernels: if Triton is installed and they agree with plain PyTorch."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

from harvest_assets.harvester.state import HarvesterState

_log = logging.getLogger(__name__)


@cache
def uses_kernels(device: torch.device) -> bool:
    """Whether a harvester on `device` uses the kernels; checked once on a small problem.

    If they do not compile or give other results than plain PyTorch, a warning is logged.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        check_kernels(device)
    except Exception as error:  # noqa: BLE001 (compilers, drivers and caches fail in many ways)
        _log.warning(
            "The Triton kernels do not work on %s, which therefore uses plain PyTorch (slower): %s",
            device,
            error,
        )
        return False
    return True


def check_kernels(device: torch.device) -> None:
    """Harvest a few random rows with the kernels and without.

    Raises:
        ArithmeticError: the results differ.
    """
    from harvest_assets.harvester.harvester import Harvester

    generator = torch.Generator().manual_seed(0)
    rows, length, n, vocab = 2, 40, 9, 37
    ci = torch.rand(rows, length, n, generator=generator)
    ci *= torch.rand(rows, length, n, generator=generator) < torch.rand(n, generator=generator)
    batch = (
        torch.randint(vocab, (rows, length), generator=generator),
        ci,
        torch.rand(rows, length, vocab, generator=generator).mul(9).softmax(dim=-1),
        torch.randn(rows, length, n, generator=generator),
    )
    states: list[HarvesterState] = []
    for kernels in (True, False):
        harvester = Harvester([("h", n)], vocab, 1e-6, 5, 2, device=device, kernels=kernels)
        for number in range(2):
            harvester.process_batch(*batch, first_row=number * rows)
        states.append(harvester.state())
    _compare(*states)


def _compare(found: HarvesterState, expected: HarvesterState) -> None:
    """Integers and examples must be equal, sums in floating point up to their rounding."""
    for name in ("cooccurrence", "ci_histogram", "input_counts"):
        if not torch.equal(getattr(found, name), getattr(expected, name)):
            raise ArithmeticError(f"{name} differs")
    for name, table in found.example_tables.items():
        pairs = zip(table, expected.example_tables[name], strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise ArithmeticError(f"{name} differs")
    for name, tolerance in (("ci_sums", 1e-12), ("output_token_prob_mass", 1e-5)):
        if not torch.allclose(getattr(found, name), getattr(expected, name), tolerance, atol=0):
            raise ArithmeticError(f"{name} differs by more than {tolerance:.0e}")
