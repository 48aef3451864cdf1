"""Building a model without the memory and the random numbers of weights that are loaded later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


def build_weightless(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model whose parameters are empty (on the meta device) and whose buffers are real.

    Buffers are computed, for no checkpoint holds the rotary tables and masks among them. A model
    that looks at its parameters while it is built is built in full instead.

    Args:
        build: makes the model; called a second time where the first fails.
    """
    try:
        with _parameters_on_meta():
            return build()
    except (NotImplementedError, RuntimeError):
        return build()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        # One already empty is kept as it is: it may be shared by two modules.
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    nn.Module.register_parameter = register_empty  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
