"""Which components are labelled or scored, and by which model."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from harvest_assets.errors import HarvestError
from harvest_assets.settings import CheckedModel, CountOrZero, Patterns

BASELINE = "baseline"  # the method without a language model
# Values of variables with such names are kept out of everything that is shown or stored.
_KEY_VARIABLE = re.compile(r"(?!HARVEST_)[A-Za-z_][A-Za-z0-9_]*(KEY|TOKEN|SECRET|PASSWORD)")


class ComponentChoice(CheckedModel):
    """Which components of a harvest."""

    layers: Patterns | None = Field(
        default=None,
        description="Only layers whose names match this pattern, or one of several; omitted: all.",
    )
    min_density: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Only components that fire at least so often per token.",
    )
    max_density: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Only components that fire at most so often per token.",
    )
    components: CountOrZero = Field(
        default=100, description="An even random sample of at most so many; 0: all."
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=(1 << 63) - 1,
        description="Of the sample of components and of the trials: equal seeds, equal trials.",
    )


class ModelSettings(CheckedModel):
    """A language model behind an endpoint, and how it is asked."""

    endpoint: str | None = Field(
        default=None,
        description="Address of an OpenAI-compatible API, such as http://localhost:8000/v1.",
    )
    model: str | None = Field(
        default=None, max_length=300, description="Name of the model at the endpoint."
    )
    key_variable: str = Field(
        default="OPENAI_API_KEY",
        description="The environment variable that holds the key, where the endpoint wants one.",
    )
    timeout_seconds: float = Field(
        default=120.0, gt=0, le=3600, description="Seconds to wait for one answer."
    )
    retries: int = Field(
        default=4,
        ge=0,
        le=20,
        description="Times a call is repeated, later each time, after a time-out, a 429 or a 5xx.",
    )
    reasks: int = Field(
        default=0,
        ge=0,
        le=5,
        description="Times the model is shown what is wrong with an unusable answer.",
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="Calls at the same time.")
    max_tokens: int = Field(
        default=1000, ge=1, le=1_000_000, description="Tokens of one answer at most."
    )
    price_in: float | None = Field(
        default=None, ge=0, description="Price of a million input tokens; omitted: not known."
    )
    price_out: float | None = Field(
        default=None, ge=0, description="Price of a million output tokens; omitted: not known."
    )
    max_calls: CountOrZero | None = Field(
        default=None,
        description="Stop before more requests than this, repeated ones included, in one command "
        "or materialization; omitted: no limit.",
    )
    max_cost: float | None = Field(
        default=None,
        ge=0,
        description="Stop before this cost, in the unit of the prices, by the tokens that the "
        "endpoint reports, in one command or materialization.",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        try:
            parts = urlsplit(endpoint)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address that begins with http:// or https://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise HarvestError("endpoint has a user, a password or a query; leave them out.")
        return endpoint

    @field_validator("key_variable")
    @classmethod
    def _is_secret(cls, name: str) -> str:
        if not _KEY_VARIABLE.fullmatch(name):
            raise HarvestError(  # without the value, which may be a key
                "key_variable is not valid; it must be the name of a variable that ends in KEY, "
                "TOKEN, SECRET or PASSWORD, so that its value is kept out of logs and files, and "
                "does not begin with HARVEST_, which jobs of a cluster are given."
            )
        return name

    @model_validator(mode="after")
    def _has_prices_for_a_limit(self) -> Self:
        if self.max_cost is not None and None in (self.price_in, self.price_out):
            raise HarvestError("max_cost needs both prices: give price_in and price_out.")
        return self

    @property
    def names_a_model(self) -> bool:
        """Whether a model is asked for."""
        return self.endpoint is not None or self.model is not None

    def require_model(self) -> None:
        """Check that there is a model to call.

        Raises:
            HarvestError: its name or its endpoint is missing.
        """
        if self.endpoint is None or self.model is None:
            raise HarvestError("No model was named; give its --endpoint and its --model.")

    def cost(self, input_tokens: float, output_tokens: float) -> float | None:
        """What so many tokens cost; None where a price is not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (input_tokens * self.price_in + output_tokens * self.price_out) / 1e6
