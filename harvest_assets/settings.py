"""The settings of a harvest: their names, defaults, bounds and descriptions.

A plan, the launchpad, the command's options and `config.json` take them from these fields. A
deployment changes a default with `HARVEST_<OPTION>` in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from harvest_assets.errors import HarvestError

MAX_SHARDS = 16
DEFAULT_CI_THRESHOLD = 1e-6  # of SPD; another kind of decomposition may replace it
MAX_COUNT = (1 << 31) - 1  # of components, tokens or examples; more would overflow
_DEVICE = re.compile(r"(cpu|cuda(:\d+)?)?", re.ASCII)
_MAX_BATCHES = (1 << 63) - 1
ALL_ROWS = -1  # of `keep_firings`
# What an option means that is given without a value; the others need one.
_ALONE = {"keep_firings": ALL_ROWS}

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    AfterValidator(lambda patterns: tuple(sorted(set(patterns)))),  # any order means the same
]
Shards = Annotated[int, Field(ge=1, le=MAX_SHARDS)]

_EXPECTED = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "1 or 0, yes or no",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "at least {min_length} character long",
    "tuple_type": "a list",
    "literal_error": "one of {expected}",
    "value_error": "{error}",
}


class CheckedModel(BaseModel):
    """A model that reports a value it does not accept as a `HarvestError`.

    A validator of a subclass raises `ValueError` with what was expected: "one of a, b".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def spelling(cls, field: str) -> str:
        """How users spell the name of a field."""
        return field

    @model_validator(mode="wrap")
    @classmethod
    def _report_in_a_sentence(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise HarvestError(cls._sentence(error)) from None

    @classmethod
    def _sentence(cls, error: ValidationError) -> str:
        """What is wrong with the first value that was refused."""
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            return f"{first['input']!r} holds no settings."
        field, *place = map(str, first["loc"])
        name = ".".join([cls.spelling(field), *place])
        kind = first["type"]
        if kind == "missing":
            return f"{name} is missing."
        if kind == "extra_forbidden":
            return f"{name} is not a valid name; expected one of {', '.join(cls.model_fields)}."
        template = _EXPECTED.get(kind)
        if template is None:
            return f"{name} is {first['input']!r}: {first['msg']}."
        expected = template.format(**first.get("ctx", {}))
        return f"{name} is {first['input']!r}; it must be {expected}."


class EnvironmentModel(CheckedModel, BaseSettings):
    """Settings that are read from the environment whenever an instance is made.

    A variable that is empty or blank counts as not set.
    """

    model_config = SettingsConfigDict(env_prefix="HARVEST_", enable_decoding=False)

    @classmethod
    def from_environment(cls) -> Self:
        """The deployment's settings.

        Raises:
            HarvestError: the value of a variable is not valid.
        """
        return cls()

    @classmethod
    def spelling(cls, field: str) -> str:
        """The variable that holds a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field}".upper()

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        stripped = {k: v.strip() if isinstance(v, str) else v for k, v in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}


class SampleSettings(CheckedModel):
    """Which firings are kept as examples; all that the harvester needs to know."""

    ci_threshold: float = Field(
        default=DEFAULT_CI_THRESHOLD,
        ge=0,
        allow_inf_nan=False,
        description=(
            "A component fires where its causal importance is strictly above; of dictionaries "
            "and of your own model, where its firing strength is, and their own threshold is the "
            "default."
        ),
    )
    activation_examples_per_component: CountOrZero = Field(
        default=1000,
        description="Firings kept of each component, a uniform sample of all.",
    )
    activation_context_tokens_per_side: CountOrZero = Field(
        default=10,
        description="Tokens kept left and right of a sampled firing.",
    )
    seed: int = Field(
        default=0,
        ge=-(1 << 63),
        le=(1 << 64) - 1,
        description="Of the sample alone; the data's order follows the run's config.",
    )


class HarvestSettings(SampleSettings):
    """The settings of `harvest_plan`; shards and merges take everything from the plan."""

    n_batches: int | None = Field(
        default=None,
        ge=1,
        le=_MAX_BATCHES,
        description="Batches to harvest; omitted: the whole dataset.",
    )
    batch_size: Count = Field(default=256, description="Rows of a batch.")
    context_length: Count | None = Field(
        default=None, description="Tokens of a row; omitted: as in the run's training."
    )
    pmi_token_top_k: CountOrZero = Field(
        default=40, description="Tokens in each list of highest and lowest PMI."
    )
    n_shards: Shards | None = Field(
        default=None,
        description=(
            f"Shards that share the work, at most {MAX_SHARDS}; omitted: one for each visible GPU, "
            "else 1. The result does not depend on it."
        ),
    )
    layers: Patterns | None = Field(
        default=None,
        description=(
            "Harvest only the layers whose names match this pattern (`*` matches dots too), or one "
            "of several (in the environment with blanks between them); omitted: all."
        ),
    )
    cooccurrence: bool = Field(
        default=True,
        description=(
            "Count which components fire together: a matrix of components by components. Without "
            "it there are no correlated components."
        ),
    )
    keep_firings: int = Field(
        default=0,
        ge=ALL_ROWS,
        le=_MAX_BATCHES,
        description=(
            "Keep every firing, not only a sample, of so many rows from the first on: 0 is none, "
            "-1 all (on the command line also `all`, or no value). Each takes 16 bytes."
        ),
    )
    ci_noise: bool = Field(
        default=False,
        description=(
            "Of a run with sampling: binomial, add the noise of its training to causal importances."
        ),
    )
    bf16: bool = Field(
        default=False,
        description=(
            "Compute the model's matrix products in bfloat16: faster on a GPU, less exact. Most "
            "causal importances are within 0.01 of float32, single ones up to 0.1 away; what is "
            "counted stays exact."
        ),
    )

    @property
    def sample(self) -> SampleSettings:
        """The part of the settings that decides what is kept of each firing."""
        return SampleSettings(**self.model_dump(include=set(SampleSettings.model_fields)))

    @classmethod
    def over_defaults(cls, given: Mapping[str, Any]) -> HarvestSettings:
        """Settings that were given, and for the others the deployment's defaults.

        Raises:
            HarvestError: a value or a variable of the environment is not valid.
        """
        return HarvestSettings(**{**HarvestDefaults.from_environment().model_dump(), **given})


class HarvestDefaults(EnvironmentModel, HarvestSettings):
    """A deployment's defaults: `HARVEST_<OPTION>` in the environment for each setting."""

    @field_validator("layers", mode="before")
    @classmethod
    def _split(cls, text: Any) -> Any:
        """Several patterns have blanks between them."""
        return tuple(text.split()) if isinstance(text, str) else text


class StorageSettings(EnvironmentModel):
    """What is kept of a harvest beside its results."""

    keep: Literal["all", "merged", "none"] = Field(
        default="merged",
        description=(
            "What stays after a verified merge: `merged`, one state of all rows; `all`, the states "
            "of the shards too; `none`: such a harvest cannot be extended."
        ),
    )


class PreflightSettings(EnvironmentModel):
    """What the estimate of a harvest's memory and disk decides."""

    on_shortage: Literal["refuse", "warn"] = Field(
        default="refuse",
        description=(
            "A harvest that, by the estimate, does not fit into memory or onto the disk: `refuse`, "
            "or `warn` and try, for runs whose components are mostly dead and need less."
        ),
    )


class LiveSettings(EnvironmentModel):
    """The process that keeps a run's model open for questions of the viewer."""

    live_idle_seconds: float = Field(
        default=600,
        gt=0,
        allow_inf_nan=False,
        description="Seconds without a question after which the model is closed.",
    )
    live_answer_seconds: float = Field(
        default=120,
        gt=0,
        allow_inf_nan=False,
        description="Seconds to open the model or answer a question, after which it is closed.",
    )


class ComputeSettings(EnvironmentModel):
    """What harvests compute on; no part of a plan, since the result does not depend on it."""

    device: str = Field(
        default="",
        description=(
            "What harvests compute on: `cpu`, `cuda` (a free GPU) or `cuda:1` (that one); blank: a "
            "free GPU, or the CPU where there is none."
        ),
    )

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, text: str) -> str:
        if not _DEVICE.fullmatch(text):
            raise ValueError("cpu, cuda or cuda:N")
        return text


class Option(NamedTuple):
    """A setting as the launchpad and the command line need it.

    Args:
        name: of the field.
        kind: int, float, bool, str, or tuple for several texts.
        optional: whether None is a value.
        default: the deployment's.
        description: for help texts.
        alone: the value of a command's option that is given without one; None: it needs one.
    """

    name: str
    kind: type[float | str | tuple[str, ...]]
    optional: bool
    default: Any
    description: str
    alone: int | None = None


def deployment_options() -> Iterator[Option]:
    """All settings of a harvest, those of its sample last.

    For help texts, which must appear even where a variable of the environment is not valid: the
    defaults are then the built-in ones.
    """
    try:
        defaults = HarvestSettings.over_defaults({})
    except HarvestError:
        defaults = HarvestSettings()
    options = options_of(defaults)
    yield from sorted(options, key=lambda option: option.name in SampleSettings.model_fields)


def options_of(defaults: CheckedModel) -> Iterator[Option]:
    """The fields of a model of settings, in order, with the values of an instance as defaults."""
    for name, field in type(defaults).model_fields.items():
        kind, *none = get_args(field.annotation) or (field.annotation,)
        yield Option(
            name,
            kind=_plain(kind),
            optional=bool(none),
            default=getattr(defaults, name),
            description=str(field.description),
            alone=_ALONE.get(name),
        )


def _plain(kind: Any) -> Any:
    """The class behind an annotated or parametrized one."""
    while (origin := getattr(kind, "__origin__", None)) is not None:
        kind = origin
    return kind
