"""The checkpoint of an SPD run: a flat state dict, opened without trusting it.

Keys are `target_model.<name>`, `_components.<layer>.<V or U>` and `_ci_fns.<layer>.<name>` or
`_global_ci_fn.<name>`, where `<layer>` is the layer's path with `-` for `.`. A path may hold a `-`
of its own, so keys are always made from known paths, never read backwards.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harvest_assets.decompositions.spd.old_spellings import current_state
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.safe_torch import UnsafeFileError, open_torch_file

TARGET = "target_model."
_COMPONENTS = "_components."
_CI_FUNCTIONS = "_ci_fns."
_GLOBAL_CI_FUNCTION = "_global_ci_fn."
# Of GPT-2 and the simple families, Llama and most others, GPT-NeoX.
_EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "embed_in.weight")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a run, as saved, memory-mapped.

    Args:
        path: the file, for messages.
        state: the whole state dict, in today's spelling.
    """

    path: Path
    state: Mapping[str, torch.Tensor]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a checkpoint, its keys as they are spelled now; nothing in it is executed.

        Raises:
            HarvestError: the file is not there, damaged, holds anything but named tensors, or one
                of them in two spellings.
        """
        try:
            state = open_torch_file(path)
        except FileNotFoundError as error:
            raise HarvestError(f"The checkpoint {path} is not there.") from error
        except (UnsafeFileError, pickle.UnpicklingError) as error:
            raise HarvestError(
                f"{path} holds more than tensors, which is not safe to open, or is damaged."
            ) from error
        except Exception as error:  # a damaged pickle raises what it likes
            reason = reason_of(error).split(". ")[0]
            raise HarvestError(
                f"{path} cannot be read as a checkpoint, it may be cut short: {reason}."
            ) from error
        if not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
        ):
            raise HarvestError(
                f"{path} is not a valid state dict; expected a mapping of names to tensors."
            )
        return cls(path, current_state(path, state))

    @property
    def n_weights(self) -> int:
        """Values of all tensors; those that share their memory count once."""
        distinct = {tensor.data_ptr(): tensor.numel() for tensor in self.state.values()}
        return sum(distinct.values())

    def target_weights(self) -> dict[str, torch.Tensor]:
        """The target model's own weights, by their names in the target."""
        return self._below(TARGET)

    def token_embeddings(self) -> torch.Tensor:
        """The target's embedding matrix, [vocab, width].

        Raises:
            HarvestError: no weight has a name that embeddings have.
        """
        for name, weight in self.target_weights().items():
            if name.endswith(_EMBEDDINGS) and weight.ndim == 2:  # noqa: PLR2004
                return weight
        raise HarvestError(
            f"{self.path} has no embedding matrix under a known name ({', '.join(_EMBEDDINGS)})."
        )

    def component_matrices(
        self, layer: str, *, d_in: int, n_components: int, d_out: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """V [d_in, C] and U [C, d_out] of a layer.

        Raises:
            HarvestError: one is missing, or has another shape.
        """
        prefix = f"{_COMPONENTS}{_in_keys(layer)}."
        v = self.tensor(f"{prefix}V", (d_in, n_components))
        u = self.tensor(f"{prefix}U", (n_components, d_out))
        return v, u

    def ci_weights(
        self, layer: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, torch.Tensor]:
        """The weights of a layer's CI function, by their names in it.

        Args:
            layer: its path.
            shapes: what the config says of them.

        Raises:
            HarvestError: one is missing, superfluous, or has another shape.
        """
        return self._exactly(f"{_CI_FUNCTIONS}{_in_keys(layer)}.", shapes)

    def has_global_ci(self, prefix: str) -> bool:
        """Whether the global CI function has weights whose names begin so."""
        return any(key.startswith(_GLOBAL_CI_FUNCTION + prefix) for key in self.state)

    def global_ci_weights(
        self, shapes: Mapping[str, tuple[int, ...]], device: torch.device
    ) -> dict[str, torch.Tensor]:
        """The weights of the CI function of all layers, by their names in it, float32.

        Args:
            shapes: what the config says of them.
            device: where to.

        Raises:
            HarvestError: one is missing, superfluous, or has another shape.
        """
        layerwise = next(iter(self._below(_CI_FUNCTIONS)), None)
        if layerwise is not None:
            raise HarvestError(
                f"{self.path} has {_CI_FUNCTIONS}{layerwise}, but its config names a global CI "
                "function."
            )
        weights = self._exactly(_GLOBAL_CI_FUNCTION, shapes)
        return {name: weight.to(device, torch.float32) for name, weight in weights.items()}

    def _exactly(
        self, prefix: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, torch.Tensor]:
        superfluous = sorted(set(self._below(prefix)) - set(shapes))
        if superfluous:
            raise HarvestError(
                f"{self.path} has {prefix}{superfluous[0]}, which its config does not ask for."
            )
        return {name: self.tensor(f"{prefix}{name}", shape) for name, shape in shapes.items()}

    def tensor(self, key: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor of floating-point numbers.

        Raises:
            HarvestError: it is missing, or has another shape or type.
        """
        if key not in self.state:
            raise HarvestError(f"{self.path} lacks {key}; expected a checkpoint of this config.")
        self.check_shape(key, shape)
        self.check_floating(key)
        return self.state[key]

    def check_shape(self, key: str, shape: tuple[int, ...]) -> None:
        """Check that a tensor has the shape that config and target ask for.

        Raises:
            HarvestError: it has not.
        """
        found = tuple(self.state[key].shape)
        if found != shape:
            raise HarvestError(
                f"{self.path}: {key} has the shape {list(found)}, not {list(shape)}."
            )

    def check_floating(self, key: str) -> None:
        """Check that a tensor holds floating-point numbers.

        Raises:
            HarvestError: it does not.
        """
        dtype = self.state[key].dtype
        if not dtype.is_floating_point:
            raise HarvestError(
                f"{self.path}: {key} is {dtype}; weights are floating-point numbers."
            )

    def check_layers(self, layers: Collection[str]) -> None:
        """Check that no layer is decomposed here that the config does not name.

        Raises:
            HarvestError: one is.
        """
        known = {_in_keys(layer) for layer in layers}
        for prefix in (_COMPONENTS, _CI_FUNCTIONS):
            for name in self._below(prefix):
                if name.partition(".")[0] not in known:
                    raise HarvestError(
                        f"{self.path} has {prefix}{name}, but no pattern of its config matches "
                        "that layer."
                    )

    def _below(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.state.items()
            if key.startswith(prefix)
        }


def _in_keys(layer: str) -> str:
    return layer.replace(".", "-")
