"""`ci_config` of a run with one CI function for all layers, and the spellings before it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from harvest_assets.errors import HarvestError

_MAX_WIDTH = 1 << 24
_MAX_ITEMS = 4096
_Width = Annotated[int, pydantic.Field(gt=0, le=_MAX_WIDTH)]
_Widths = Annotated[tuple[_Width, ...], pydantic.Field(max_length=100)]
_LAYERWISE = "layerwise"
_GLOBAL = "global"
_MLP = "global_shared_mlp"
LAYERWISE_NAMES = {"fn_type": "ci_fn_type", "hidden_dims": "ci_fn_hidden_dims"}
# Settings of each kind; whatever else a config gives for it counts as not given.
_SETTINGS = {
    _MLP: {"hidden_dims"},
    "global_shared_transformer": {"simple_transformer_ci_cfg"},
    "global_reverse_residual": {
        "reader_hidden_dims",
        "d_resid_ci_fn",
        "block_groups",
        "transition_attn_config",
        "transition_hidden_dim",
        "reads_before_transition",
    },
}


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", frozen=True, str_max_length=1000)


class Attention(_Section):
    """Heads, longest row and base of the rotary angles."""

    n_heads: _Width
    max_len: _Width = 2048
    rope_base: float = pydantic.Field(10000.0, gt=0)


class TransformerSizes(_Section):
    """`simple_transformer_ci_cfg`."""

    d_model: _Width
    n_blocks: int = pydantic.Field(ge=0, le=1000)
    mlp_hidden_dim: _Widths | None = None
    attn_config: Attention

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden widths of a block's MLP."""
        return (4 * self.d_model,) if self.mlp_hidden_dim is None else self.mlp_hidden_dim

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> TransformerSizes:
        _check_heads("d_model", self.d_model, self.attn_config)
        return self


class BlockGroup(_Section):
    """Layers that share a step of the residual."""

    name: str
    patterns: tuple[str, ...] = pydantic.Field(max_length=_MAX_ITEMS)


class GlobalCI(_Section):
    """One CI function for all layers; what its kind does not use is None.

    `reads_before_transition`: the order of the steps of a reverse residual in older runs.
    """

    fn_type: str
    hidden_dims: _Widths | None = None
    reader_hidden_dims: _Widths | None = None
    d_resid_ci_fn: _Width | None = None
    block_groups: tuple[BlockGroup, ...] | None = pydantic.Field(
        default=None, max_length=_MAX_ITEMS
    )
    transition_attn_config: Attention | None = None
    transition_hidden_dim: _Width | None = None
    simple_transformer_ci_cfg: TransformerSizes | None = None
    reads_before_transition: bool = False

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, settings: Any) -> Any:
        """What the kind does not use is not even checked."""
        if not isinstance(settings, dict):
            return settings
        used = _SETTINGS.get(str(settings.get("fn_type")), set(cls.model_fields))
        return {key: value for key, value in settings.items() if key in {"fn_type", *used}}

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> GlobalCI:
        if self.transition_attn_config is not None and self.d_resid_ci_fn is not None:
            _check_heads("d_resid_ci_fn", self.d_resid_ci_fn, self.transition_attn_config)
        return self

    @property
    def reads_whole_rows(self) -> bool:
        """Whether the CI of a token depends on the other tokens of its row."""
        return self.simple_transformer_ci_cfg is not None or self.transition_attn_config is not None

    def required(self, name: str) -> Any:
        """A setting that this kind of CI function needs.

        Raises:
            HarvestError: it is null or absent.
        """
        value = getattr(self, name)
        if value is None:
            raise HarvestError(f"ci_config: {self.fn_type} needs {name}, which is null or absent.")
        return value


def _check_heads(name: str, width: int, attention: Attention) -> None:
    if width % (2 * attention.n_heads):
        raise ValueError(
            f"{name} {width} is not a multiple of twice n_heads, which is {attention.n_heads}"
        )


def current_ci_settings(path: Path, config: Mapping[str, Any], *, recent: bool) -> dict[str, Any]:
    """`ci_fn_type`, `ci_fn_hidden_dims` and `global_ci` as `RunConfig` has them.

    Args:
        path: of the config, for messages.
        config: its settings.
        recent: whether it was surely written on 2026-02-07 or later.

    Returns:
        What differs from `config`.

    Raises:
        HarvestError: `ci_config` has a mode that is not known.
    """
    ci_config = config.get("ci_config")
    if ci_config is None:
        return _global_by_flag(config)
    mode = ci_config
    if isinstance(ci_config, dict):
        is_global = str(ci_config.get("fn_type")).startswith("global_")
        mode = ci_config.get("mode", _GLOBAL if is_global else _LAYERWISE)
    if mode == _GLOBAL and isinstance(ci_config, dict):
        older = "transition_hidden_dim" not in ci_config and not recent
        return {"global_ci": ci_config | {"reads_before_transition": older}}
    if mode != _LAYERWISE:
        raise HarvestError(
            f"{path}: ci_config has the mode {reprlib.repr(mode)}; it must be {_LAYERWISE} or "
            f"{_GLOBAL}."
        )
    return {new: ci_config[key] for key, new in LAYERWISE_NAMES.items() if key in ci_config}


def _global_by_flag(config: Mapping[str, Any]) -> dict[str, Any]:
    """Before `ci_config`, a flag or the name of the function made it global."""
    kind = str(config.get("ci_fn_type"))
    if kind.startswith("global_"):
        return {"global_ci": _before_ci_config(kind, config)}
    if config.get("use_global_ci") is True:
        return {"global_ci": _before_ci_config(_MLP, config)}
    return {}


def _before_ci_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: config[name] for name in GlobalCI.model_fields if name in config}
    older = "transition_hidden_dim" not in config
    hidden = config.get("ci_fn_hidden_dims", (8,))
    return settings | {"fn_type": kind, "hidden_dims": hidden, "reads_before_transition": older}
