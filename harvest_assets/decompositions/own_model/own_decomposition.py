"""The class by which a function of tokens becomes a decomposition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harvest_assets.decompositions.protocol import TOKENS_PER_FORWARD
from harvest_assets.errors import HarvestError
from harvest_assets.files.yaml_file import validated

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.data import DataSpec


class OwnOutputs(NamedTuple):
    """What a function computes for tokens [B, S]."""

    output_probs: torch.Tensor  # float [B, S, vocab], of the next token
    firing_strengths: torch.Tensor  # float [B, S, C_total]
    second_values: torch.Tensor | None = None  # float [B, S, C_total]


class OwnDecomposition:
    """A function of tokens, harvested as `module:name` of the variable that holds this object.

    Args:
        function: maps tokens, int64 [batch, pos] on the device of the harvest, to the probabilities
            of the next token, float [batch, pos, vocab]; the firing strength of each component,
            float [batch, pos, C_total]; and a second value of each, of the same shape, or None.
            What it returns for a row depends on the tokens of that row alone.
        layers: number of components by the name of the layer, in the order of C_total.
        vocab_size: width of the probabilities.
        data: as the `task_config` of an SPD run: `dataset_name`, `column_name`, `max_seq_len`, ...
        tokenizer: a name on the hub, or a folder. Relative paths, also of the dataset, start from
            the folder of the module.
        identity: any text that changes whenever the function returns other values. Without it the
            function is harvested at once in one shard, and can be neither resumed nor extended.
        threshold: a component fires where its firing strength is strictly above.
        seed: of the order of the rows.
        firing_strength: what it is, in words.
        second_value: what it is, in words; None where the function returns None.
        max_context_length: tokens of the longest row that the function reads; None: no limit.
        tokens_per_forward: tokens that are computed together, about; last bits depend on it.
        weight_bytes: memory that the model takes, for estimates.
        model: what the model is called in the results.

    Raises:
        HarvestError: `layers`, `identity` or `data` is not as described.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], Any],
        layers: Mapping[str, int],
        vocab_size: int,
        *,
        data: Mapping[str, Any],
        tokenizer: str | Path,
        identity: str | None = None,
        threshold: float = 0.0,
        seed: int = 0,
        firing_strength: str = "firing strength",
        second_value: str | None = None,
        max_context_length: int | None = None,
        tokens_per_forward: int = TOKENS_PER_FORWARD,
        weight_bytes: int = 0,
        model: str = "own model",
    ) -> None:
        if identity is not None and not (isinstance(identity, str) and identity.strip()):
            raise HarvestError(f"identity is {identity!r}; expected a text that is not empty.")
        self._function = function
        self._data = dict(data)
        self._tokenizer = str(tokenizer)
        self._identity = identity
        self._seed = seed
        self._model = model
        self.layers = tuple(layers.items())
        self.vocab_size = vocab_size
        self.default_ci_threshold = float(threshold)
        self.firing_strength = firing_strength
        self.second_value = second_value
        self.max_context_length = max_context_length
        self.tokens_per_forward = tokens_per_forward
        self.extra_bytes_per_token = 0
        self.weight_bytes = weight_bytes
        self.data_spec(None)

    @property
    def sha256(self) -> str | None:
        """Digest of the identity and of what the results look like; None without an identity."""
        if self._identity is None:
            return None
        has_second_value = self.second_value is not None
        text = json.dumps([self._identity, self.layers, self.vocab_size, has_second_value])
        return hashlib.sha256(text.encode()).hexdigest()

    def data_spec(self, context_length: int | None) -> DataSpec:
        """The data, in rows of `context_length` tokens (None: `max_seq_len`).

        Raises:
            HarvestError: a key of `data` has a wrong value, or the length is below 1.
        """
        return spec_of(self._data, self._tokenizer, self._seed, context_length)

    def options(self) -> frozenset[str]:
        """None: a function has no noise of training and no matrix products to be rounded."""
        return frozenset()

    def notes(self) -> list[str]:
        """None."""
        return []

    def model_name(self) -> str:
        """The model, in words."""
        return self._model

    def open_model(
        self,
        device: str | torch.device,  # noqa: ARG002 - the function follows its tokens
        *,
        ci_noise: bool = False,  # noqa: ARG002 - never on: see `options`
        bf16: bool = False,  # noqa: ARG002
    ) -> Callable[[torch.Tensor], OwnOutputs]:
        """The function, with its results by name."""

        def model(tokens: torch.Tensor) -> OwnOutputs:
            return OwnOutputs(*self._function(tokens))

        return model


def spec_of(
    data: Mapping[str, Any], tokenizer: str, seed: int, context_length: int | None
) -> DataSpec:
    """The data that the keys of an SPD run's `task_config` name.

    Args:
        data: the keys.
        tokenizer: a name on the hub, or a folder.
        seed: of the order of the rows, where the data have none of their own.
        context_length: tokens of a row; None: `max_seq_len`.

    Raises:
        HarvestError: a key has a wrong value, or the length is below 1.
    """
    from harvest_assets.decompositions.dictionaries.config import LanguageData

    config = validated(Path("data"), dict(data), LanguageData)
    return config.spec(
        config.dataset_name,
        tokenizer,
        seed,
        context_length,
        special_tokens=config.special_tokens,
    )
