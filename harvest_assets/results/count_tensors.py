"""The two `.pt` files: written whole, opened by memory map."""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.records import FileDigest

if TYPE_CHECKING:
    import torch

# The first is written; older writers used the second.
_INTEGERS = ("int64", "int32")
_FLOATS = ("float64", "float32")


class _Storage:
    """A `torch.save` of a plain dict whose keys are the fields of a dataclass."""

    def save(self, path: Path) -> FileDigest:
        """Write the file atomically, and return its digest.

        Tensors in mapped files are not read into memory.
        """
        import torch

        fields = self._content()
        # Given a path, torch writes its name into the file: equal contents would differ in bytes.
        with atomic_path(Path(path)) as temporary, HashedFile(temporary) as file:
            torch.save(fields, cast("IO[bytes]", file))
        return file.digest

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open the file; its tensors are memory-mapped.

        Raises:
            HarvestError: it is damaged, or holds something else.
        """
        from harvest_assets.files.safe_torch import open_torch_file

        try:
            value = open_torch_file(Path(path))
        except FileNotFoundError as error:
            raise HarvestError(f"{path} does not exist.") from error
        except Exception as error:  # a damaged pickle raises whatever it runs into
            raise HarvestError(f"{path} is damaged: {reason_of(error)}.") from error
        names = set(cls._names())
        if isinstance(value, dict):
            names -= cls._absent_from(value)
        if not isinstance(value, dict) or not names <= set(value):
            found = reprlib.repr(list(value)) if isinstance(value, dict) else type(value).__name__
            raise HarvestError(f"{path} does not hold {', '.join(sorted(names))}, but {found}.")
        storage = cls(**{name: value[name] if name in names else None for name in cls._names()})
        storage._check(path)
        return storage

    def _content(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names()}

    @classmethod
    def _absent_from(cls, value: dict[str, Any]) -> set[str]:  # noqa: ARG003
        """Fields that a file with this content rightly lacks."""
        return set()

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cast("Any", cls))]

    def _check(self, path: Path) -> None:
        raise NotImplementedError


@dataclass
class CorrelationStorage(_Storage):
    """Firings and co-firings of components.

    Args:
        component_keys: C_total keys, flat order.
        count_i: int64 [C_total], firings.
        count_ij: int64 [C_total, C_total], positions at which both fired; symmetric. None of a
            harvest with `--no-cooccurrence`: then the file says `cooccurrence: False` instead.
        count_total: positions seen.
    """

    component_keys: list[str]
    count_i: torch.Tensor
    count_ij: torch.Tensor | None
    count_total: int

    def __repr__(self) -> str:
        counted = "" if self.count_ij is not None else ", co-firings not counted"
        n = len(self.component_keys)
        return f"CorrelationStorage({n:,} components, {self.count_total:,} positions{counted})"

    def cofirings(self) -> torch.Tensor:
        """`count_ij`, where it was counted.

        Raises:
            HarvestError: it was not.
        """
        if self.count_ij is None:
            raise HarvestError(
                "Which components fire together was not counted: the run was harvested with "
                "--no-cooccurrence; harvest it with --cooccurrence."
            )
        return self.count_ij

    def _content(self) -> dict[str, Any]:
        content = super()._content()
        if self.count_ij is None:
            del content["count_ij"]
            content["cooccurrence"] = False
        return content

    @classmethod
    def _absent_from(cls, value: dict[str, Any]) -> set[str]:
        return {"count_ij"} if value.get("cooccurrence") is False else set()

    def _check(self, path: Path) -> None:
        n = _check_keys(path, self.component_keys)
        _check_number(path, "count_total", self.count_total)
        _check_tensor(path, "count_i", self.count_i, (n,), _INTEGERS)
        if self.count_ij is not None:
            _check_tensor(path, "count_ij", self.count_ij, (n, n), _INTEGERS)


@dataclass
class TokenStatsStorage(_Storage):
    """The tokens on which components fire, and the tokens that the model then predicts.

    Args:
        component_keys: C_total keys, flat order.
        vocab_size: width of the model's logits.
        n_tokens: positions seen.
        input_counts: int64 [C_total, vocab], occurrences of the token where the component fired.
        input_totals: float64 [vocab], occurrences of the token at all positions.
        output_counts: float32 [C_total, vocab], next-token probability summed over the positions
            where the component fired.
        output_totals: float64 [vocab], the same sum over all positions.
        firing_counts: float64 [C_total].
    """

    component_keys: list[str]
    vocab_size: int
    n_tokens: int
    input_counts: torch.Tensor
    input_totals: torch.Tensor
    output_counts: torch.Tensor
    output_totals: torch.Tensor
    firing_counts: torch.Tensor

    def __repr__(self) -> str:
        return (
            f"TokenStatsStorage({len(self.component_keys):,} components, vocabulary of "
            f"{self.vocab_size:,}, {self.n_tokens:,} positions)"
        )

    def _check(self, path: Path) -> None:
        n = _check_keys(path, self.component_keys)
        for name in ("vocab_size", "n_tokens"):
            _check_number(path, name, getattr(self, name))
        v = self.vocab_size
        _check_tensor(path, "input_counts", self.input_counts, (n, v), _INTEGERS)
        _check_tensor(path, "input_totals", self.input_totals, (v,), _FLOATS)
        _check_tensor(path, "output_counts", self.output_counts, (n, v), _FLOATS)
        _check_tensor(path, "output_totals", self.output_totals, (v,), _FLOATS)
        _check_tensor(path, "firing_counts", self.firing_counts, (n,), _FLOATS)


def _check_keys(path: Path, keys: Any) -> int:
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) < len(keys)
    ):
        raise HarvestError(f"{path}: component_keys is not a list of distinct names.")
    return len(keys)


def _check_number(path: Path, name: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise HarvestError(f"{path}: {name} is {reprlib.repr(value)}, not a count.")


def _check_tensor(
    path: Path, name: str, value: Any, shape: tuple[int, ...], dtypes: tuple[str, ...]
) -> None:
    import torch

    if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape:
        found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise HarvestError(f"{path}: {name} is {found}; expected a tensor {list(shape)}.")
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in dtypes:
        raise HarvestError(f"{path}: {name} has the type {dtype}; expected {dtypes[0]}.")
