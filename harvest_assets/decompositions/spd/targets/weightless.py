"""Building a model without the memory and the random numbers of weights that are loaded later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from harvest_assets.errors import HarvestError

# More than any model has: a config that asks for more would keep one waiting, or take all memory.
_MAX_PARAMETERS = 100_000
_MAX_BUFFER_BYTES = 4 << 30


def build_weightless(
    build: Callable[[], nn.Module], *, buffer_bytes: int | None = None
) -> nn.Module:
    """Build a model whose parameters are empty (on the meta device) and whose buffers are real.

    Buffers are computed, for no checkpoint holds the rotary tables and masks among them. A model
    that reads its parameters while it is built is built in full instead.

    Args:
        build: makes the model; called several times.
        buffer_bytes: size of the buffers. If it is not given, it is measured on the meta device,
            which imports PyTorch's compiler: seconds.

    Raises:
        HarvestError: there would be too many weights, or too large tables.
    """
    n_bytes = _measured(build) if buffer_bytes is None else buffer_bytes
    if n_bytes > _MAX_BUFFER_BYTES:
        raise HarvestError(
            f"The target model's masks and tables would take {n_bytes:,} bytes: too many."
        )
    try:
        with _parameters_on_meta():
            return build()
    except (NotImplementedError, RuntimeError):
        return build()


def _measured(build: Callable[[], nn.Module]) -> int:
    """Bytes of the buffers of a model; 0 if it cannot be built without memory."""
    try:
        with torch.device("meta"), _parameters_on_meta():
            empty = build()
    except (NotImplementedError, RuntimeError):
        return 0  # a model that reads its values while it is built
    return sum(buffer.nbytes for buffer in empty.buffers())


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
        with _WithoutInit():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class _WithoutInit(TorchFunctionMode):
    """Leaves tensors as they are that `torch.nn.init` would fill.

    They are empty, and filling an empty one imports PyTorch's compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
