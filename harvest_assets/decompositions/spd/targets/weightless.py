"""Building a model without the memory and the random numbers of weights that are loaded later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harvest_assets.errors import HarvestError

# More than any model has: a config that asks for more would keep one waiting, or take all memory.
_MAX_PARAMETERS = 100_000
_MAX_BUFFER_BYTES = 4 << 30


def build_weightless(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model whose parameters are empty (on the meta device) and whose buffers are real.

    Buffers are computed, for no checkpoint holds the rotary tables and masks among them. A model
    that reads its parameters while it is built is built in full instead.

    Args:
        build: makes the model; called several times.

    Raises:
        HarvestError: there would be too many weights, or too large tables.
    """
    _check_size(build)
    try:
        with _parameters_on_meta():
            return build()
    except (NotImplementedError, RuntimeError):
        return build()


def _check_size(build: Callable[[], nn.Module]) -> None:
    """Check how large the buffers would be, by building the model without any memory.

    Raises:
        HarvestError: too large.
    """
    try:
        with torch.device("meta"), _parameters_on_meta():
            empty = build()
    except (NotImplementedError, RuntimeError):
        return  # a model that reads its values while it is built
    n_bytes = sum(buffer.nbytes for buffer in empty.buffers())
    if n_bytes > _MAX_BUFFER_BYTES:
        raise HarvestError(
            f"The target model's masks and tables would take {n_bytes:,} bytes: too many."
        )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter
    numbers = itertools.count()

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if next(numbers) > _MAX_PARAMETERS:
            raise HarvestError(
                f"The target model would have more than {_MAX_PARAMETERS:,} weight matrices."
            )
        # One already empty is kept as it is: it may be shared by two modules.
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = register_empty  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
