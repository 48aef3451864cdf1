"""Harvests an object that exists only in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.decompositions.own_model import OwnDecomposition
from harvest_assets.decompositions.own_model.loading import keep_in_memory
from harvest_assets.decompositions.own_model.own_decomposition import OwnOutputs, spec_of
from harvest_assets.decompositions.own_model.source import Source
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.notebook.arrays import Rows
from harvest_assets.notebook.harvest import Harvest
from harvest_assets.notebook.opening import open as open_harvest
from harvest_assets.settings import ComputeSettings, HarvestSettings
from harvest_assets.store.finished import is_finished
from harvest_assets.store.plan_change import is_begun
from harvest_assets.store.registry import Registration, register
from harvest_assets.suggestions import close_matches, did_you_mean, quoted
from harvest_assets.wandb_client.run_name import parse_run

if TYPE_CHECKING:
    from harvest_assets.data.data import DataSpec
    from harvest_assets.runners.protocol import HarvestProgress

_DEVICE = "HARVEST_DEVICE"
_MAX_RETRIES = "HARVEST_MAX_RETRIES"
_ARGUMENTS = ("data", "layers", "tokenizer", "identity", "name", "second_value", "device")


def harvest(
    decomposition: Source | Callable[..., Any],
    *,
    data: Any = None,
    layers: Mapping[str, int] | None = None,
    tokenizer: str | Path | None = None,
    identity: str | None = None,
    name: str | None = None,
    firing_strength: str | None = None,
    second_value: str | None = None,
    device: str | None = None,
    **settings: Any,
) -> Harvest:
    """Harvest an object of this process, and open the result.

    The run is named `local/<current folder>/x-<8 hexadecimal digits>`, after the folder and `name`.

    Args:
        decomposition: a function of tokens, see `OwnDecomposition`; or an object that satisfies the
            protocol, such as an `OwnDecomposition`.
        data: tokens as an array of integers [rows, tokens], of NumPy or torch, all rows of which
            are harvested, in their order; or the keys of an SPD run's `task_config`. None where an
            object names its data itself.
        layers: of a function, the number of components by the name of the layer.
        tokenizer: of a function, a name on the hub, or a folder.
        identity: of a function, any text that changes whenever it returns other values. Without it
            the harvest can be neither resumed, divided into shards nor extended.
        name: of the run; None: that of the function, or of the object's class.
        firing_strength: of a function, what it is, in words.
        second_value: of a function, what it is, in words, if the function returns one.
        device: cpu, cuda or cuda:N; None: HARVEST_DEVICE, else a free GPU, else the CPU.
        settings: of `HarvestSettings`: n_batches, batch_size, ci_threshold, ...

    Raises:
        HarvestError: an argument is not as described, or the harvest fails.
    """
    _check_settings(settings)
    own_name = getattr(decomposition, "__name__", type(decomposition).__name__)
    name = str(own_name if name is None else name)
    about = {"firing_strength": firing_strength, "second_value": second_value, "identity": identity}
    needed = {"layers": layers, "tokenizer": tokenizer}
    if isinstance(decomposition, Source):
        _refuse(needed | about)
    else:
        _require(name, {"data": data} | needed)
    device = _checked_device(device)
    chosen = HarvestSettings.over_defaults({"n_shards": 1, **settings}).model_dump()
    rows = None
    if data is not None and not isinstance(data, Mapping):
        rows = Rows(data)
        given = chosen["batch_size"] if "batch_size" in settings else None
        chosen["batch_size"] = rows.batch_size(given, chosen["n_batches"])
        data = rows.data
    if isinstance(decomposition, Source):
        source = decomposition if data is None else _WithData(decomposition, data)
    else:
        source = _of_function(decomposition, name, {"data": data} | needed, about)
    registration = register(parse_run(str(keep_in_memory(source, name))))
    _require_one_go(source, name, registration)
    if rows is not None:
        rows.keep()
    if not is_finished(registration, chosen, None):
        with _variable(_DEVICE, device):
            _run(registration, chosen)
    return open_harvest(registration.layout.root)


def _check_settings(settings: Mapping[str, Any]) -> None:
    known = [name for name in HarvestSettings.model_fields if name != "layers"]
    for name in settings:
        if name not in known:
            meant = did_you_mean(close_matches(name, [*known, *_ARGUMENTS]))
            raise HarvestError(
                f"{quoted(name)} is not a setting of a harvest.{meant} Settings are "
                f"{', '.join(known)}."
            )


def _checked_device(device: str | None) -> str | None:
    try:
        return device and ComputeSettings(device=device).device
    except HarvestError as error:
        raise HarvestError(str(error).replace(_DEVICE, "device")) from None


def _require_one_go(source: Source, name: str, registration: Registration) -> None:
    """What `store.one_go` checks, in the words of this function's arguments."""
    if source.sha256 is None and is_begun(registration.layout):
        raise HarvestError(
            f"{name} was harvested in {registration.layout.root} and has no identity=, so that it "
            "can be neither resumed nor extended; give it an identity=, or another name=, or "
            "remove that folder."
        )


def _run(registration: Registration, settings: Mapping[str, Any]) -> None:
    from harvest_assets.cli.progress import HarvestDisplay

    with _variable(_MAX_RETRIES, "0"):  # read when the graph is imported; the caller can retry
        from harvest_assets.orchestration.instance import forget_run, open_instance
        from harvest_assets.runners.in_process import InProcessRunner

    is_new = not registration.layout.root.exists()
    with open_instance() as instance, HarvestDisplay([registration]) as display:

        def show(progress: HarvestProgress) -> None:
            if not progress.harvested:  # the result is what is returned
                display.show(progress)

        failed = InProcessRunner(instance).run([registration], settings, None, show)
        if failed and is_new and not is_begun(registration.layout):
            forget_run(instance, registration)
    for error in failed.values():
        raise error


def _of_function(
    function: Callable[..., Any],
    name: str,
    needed: Mapping[str, Any],
    about: Mapping[str, Any],
) -> OwnDecomposition:
    """A function as a decomposition; it is called with one token for what it returns.

    Args:
        function: of tokens.
        name: for messages.
        needed: arguments of `OwnDecomposition`.
        about: further ones; None for its default.
    """
    import torch

    try:
        with torch.inference_mode():
            outputs = OwnOutputs(*function(torch.zeros((1, 1), dtype=torch.int64)))
        vocab_size = outputs.output_probs.shape[-1]
    except Exception as error:
        raise HarvestError(
            f"{name} failed for tokens of shape [1, 1]: {type(error).__name__}: "
            f"{reason_of(error)}. Expected probabilities, firing strengths and, if there is one, a "
            "second value of each."
        ) from error
    second: dict[str, Any] = (
        {} if outputs.second_values is None else {"second_value": "second value"}
    )
    given = second | {key: value for key, value in about.items() if value is not None}
    return OwnDecomposition(function, vocab_size=vocab_size, **needed, **given)


class _WithData:
    """An object that names other data."""

    def __init__(self, source: Source, data: Mapping[str, Any]) -> None:
        self._source = source
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def data_spec(self, context_length: int | None) -> DataSpec:
        """The data, with the tokenizer of the object."""
        own = self._source.data_spec(None)
        return spec_of(self._data, own.tokenizer_name, own.seed, context_length)


def _require(name: str, given: Mapping[str, Any]) -> None:
    missing = [f"{argument}=" for argument, value in given.items() if value is None]
    if missing:
        raise HarvestError(f"The function {name} needs {' and '.join(missing)}; see help(harvest).")


def _refuse(given: Mapping[str, Any]) -> None:
    for argument, value in given.items():
        if value is not None:
            raise HarvestError(f"{argument}= is for a function; an object has its own {argument}.")


@contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """While the block runs, a variable of the environment has this value, unless it is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before
