"""A run whose model is open: what questions are answered from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.preflight import require_memory_to_ask
from harvest_assets.store.reopened import reopened
from harvest_assets.suggestions import key_hint
from harvest_assets.system.gpus import first_device, require_device
from harvest_assets.wandb_client.module_path import file_and_name, is_object_path

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.vocabulary import Vocabulary
    from harvest_assets.harvester.stream import Activations

MAX_CHARACTERS = 100_000


class OpenedRun:
    """The run of one harvest, opened as the harvest opened it; tensors are loaded when needed.

    Attributes:
        paths: of the harvest.
        plan: its settings.
        decomposition: the run, restricted to the layers of the plan.

    Args:
        paths: of the harvest.

    Raises:
        HarvestError: the run is not known here, cannot compute the same again, or its files are
            elsewhere; or `HARVEST_DEVICE` is not valid.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self.paths = paths
        self.plan, self.decomposition = reopened(paths)
        _require_files(self.decomposition)
        require_device()

    @cached_property
    def device(self) -> torch.device:
        """What it is computed on."""
        import torch

        return torch.device(first_device())

    @cached_property
    def model(self) -> Callable[[torch.Tensor], Activations]:
        """From tokens int64 [B, S] to their activations, with the options of the harvest.

        Raises:
            HarvestError: the files have changed, or the device has too little memory.
        """
        require_memory_to_ask(self.device, self.plan, self.decomposition)
        return self.decomposition.open_model(
            self.device, ci_noise=self.plan.ci_noise, bf16=self.plan.bf16
        )

    def warm_up(self) -> None:
        """Load what every question needs, and compute one token."""
        self._tokenizer  # noqa: B018 - loaded when first read
        self.activations([0])

    @cached_property
    def max_tokens(self) -> int:
        """Tokens of the longest text: of a row of the harvest."""
        limits = (self.plan.context_length, self.decomposition.max_context_length)
        return min(limit for limit in limits if limit is not None)

    @cached_property
    def component_keys(self) -> list[str]:
        """The key of each component, in flat order."""
        return [f"{name}:{i}" for name, c in self.decomposition.layers for i in range(c)]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.component_keys)}

    def place(self, component_key: str) -> int:
        """Where a component is in flat order.

        Raises:
            HarvestError: there is no such component.
        """
        place = self._places.get(component_key)
        if place is None:
            raise HarvestError(
                f"There is no component {component_key[:200]!r} in {self.paths.root.name}."
                f"{key_hint(component_key, self.component_keys)}"
            )
        return place

    @cached_property
    def _source(self) -> str:
        return self.decomposition.tokenizer.open(self.paths.tokenizer).source

    @cached_property
    def _tokenizer(self) -> Any:
        from harvest_assets.data.tokenization import load_tokenizer

        return load_tokenizer(self._source, download=False)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The texts of the run's tokens."""
        return self.decomposition.tokenizer.open(self.paths.tokenizer).vocabulary

    def token_ids(self, text: str | None, ids: Sequence[int] | None) -> list[int]:
        """The tokens of a text, or ids themselves, as one row that the model can read.

        The text is tokenized as the harvest's rows were.

        Raises:
            HarvestError: there are none, too many, or ids outside the model's vocabulary.
        """
        found = self._tokenized(text) if text is not None else list(ids or ())
        if not found:
            raise HarvestError("The text has no tokens; give at least one.")
        if len(found) > self.max_tokens:
            raise HarvestError(
                f"The text has {len(found):,} tokens; expected at most {self.max_tokens:,}, as "
                "many as a row of this harvest."
            )
        size = self.decomposition.vocab_size
        foreign = next((i for i in found if not 0 <= i < size), None)
        if foreign is not None:
            raise HarvestError(
                f"The token {foreign} is outside the model's vocabulary; expected 0 to "
                f"{size - 1:,}."
            )
        return found

    def _tokenized(self, text: str) -> list[int]:
        if len(text) > MAX_CHARACTERS:
            raise HarvestError(
                f"The text has {counted(len(text), 'character')}; expected at most "
                f"{MAX_CHARACTERS:,}."
            )
        spec = self.decomposition.data_spec(self.plan.context_length)
        special = spec.special_tokens and not spec.is_tokenized
        found = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return [int(token) for token in found]

    def activations(self, token_ids: Sequence[int]) -> Activations:
        """What the model computes for one row of tokens [1, S]."""
        import torch

        row = torch.tensor([list(token_ids)], dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            return self.model(row)


def _require_files(decomposition: Decomposition) -> None:
    """Check that the run's files are on this machine, as they are not where results were received.

    Raises:
        HarvestError: they are not.
    """
    for path in (decomposition.config_path, decomposition.checkpoint_path):
        file = file_and_name(Path(path))[0] if is_object_path(Path(path)) else Path(path)
        if not file.exists():
            raise HarvestError(
                f"{file}, which {decomposition.run} was harvested from, is not on this machine; "
                "restore it, or harvest the run here and ask that harvest."
            )
