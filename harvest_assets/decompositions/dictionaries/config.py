"""`dictionaries.yaml`: a target model, dictionaries over its modules, and data to run them on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from harvest_assets.data.data import DataSpec
from harvest_assets.decompositions.spd.run_config import DataConfig
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.yaml_file import read_mapping, validated

_MAX_DICTIONARIES = 4096
_LAYER_NAME = r"[\w.\-]{1,200}"

Side = Literal["input", "output"]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), str_max_length=1000
    )


class TargetConfig(_Section):
    """The model whose activations the dictionaries read."""

    model_class: str = pydantic.Field(alias="class")
    name: str
    weights: str | None = None
    output_attr: str | None = None


class DictionaryConfig(_Section):
    """One dictionary: where it reads, and where its files are."""

    hook: str = pydantic.Field(min_length=1)
    side: Side
    path: str = pydantic.Field(min_length=1)
    layer: int | None = pydantic.Field(default=None, ge=0, lt=10_000)
    center: bool | None = None
    name: Annotated[str, pydantic.Field(pattern=rf"^{_LAYER_NAME}$")] | None = None

    @property
    def layer_name(self) -> str:
        """The layer that its latents are listed under."""
        return self.name or f"{self.hook}.{self.side}"


class LanguageData(DataConfig):
    """The keys of an SPD run's `task_config`, and whether text gets special tokens."""

    task_name: Literal["lm"] = "lm"
    special_tokens: bool = True


class DictionariesConfig(_Section):
    """The whole file. Relative paths start from its folder."""

    target: TargetConfig
    dictionaries: tuple[DictionaryConfig, ...] = pydantic.Field(
        min_length=1, max_length=_MAX_DICTIONARIES
    )
    data: LanguageData
    tokenizer: str
    threshold: float = pydantic.Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: int = pydantic.Field(default=0, ge=0, lt=1 << 63)

    @pydantic.model_validator(mode="after")
    def _layer_names_differ(self) -> DictionariesConfig:
        seen: set[str] = set()
        for name in (entry.layer_name for entry in self.dictionaries):
            if name in seen:
                raise ValueError(f"two dictionaries are named {name}; give one of them a name")
            seen.add(name)
        return self

    def data_spec(self, folder: Path, context_length: int | None) -> DataSpec:
        """The data, in rows of `context_length` tokens (None: `data.max_seq_len`).

        Raises:
            HarvestError: `context_length` is below 1.
        """
        return self.data.spec(
            resolved(folder, self.data.dataset_name),
            self.tokenizer_name(folder),
            self.seed,
            context_length,
            special_tokens=self.data.special_tokens,
        )

    def tokenizer_name(self, folder: Path) -> str:
        """The tokenizer: an absolute path if there is such a folder, else the name on the hub."""
        return resolved(folder, self.tokenizer)


def load_config(path: Path) -> DictionariesConfig:
    """Read and check `dictionaries.yaml`.

    Raises:
        HarvestError: it is unreadable, lacks a key, or holds a wrong value.
    """
    return validated(path, read_mapping(path), DictionariesConfig)


def resolved(folder: Path, name: str) -> str:
    """A name of files: the absolute path if it exists, else the name unchanged, of the hub.

    Raises:
        HarvestError: it is spelled as a path and does not exist, or cannot be a path.
    """
    path = Path(os.path.normpath(local_path(folder, name)))
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")):
        raise HarvestError(f"{path} does not exist.")
    return name


def local_path(folder: Path, name: str) -> Path:
    """The path that a name means if it is one of files, whether or not it exists.

    Raises:
        HarvestError: it cannot be a path.
    """
    try:
        path = folder / Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise HarvestError(f"{name[:300]!r} is not a valid path: {reason_of(error)}.") from error
    return path
