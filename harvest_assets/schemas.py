"""The types that people hold in their hands when they read a harvest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivationExample:
    """A window of tokens around one firing, which stands in its middle.

    All three lists are `2 * activation_context_tokens_per_side + 1` long; outside the sequence the
    token is -1 and the values are 0.0.
    """

    token_ids: list[int]
    ci_values: list[float]
    component_acts: list[float]


@dataclass(frozen=True, slots=True)
class ComponentTokenPMI:
    """Tokens with their pointwise mutual information (natural log).

    `top` falls, `bottom` rises; only tokens that occurred with the component.
    """

    top: list[tuple[int, float]]
    bottom: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class ComponentData:
    """All that was harvested of one component that fired at least once."""

    component_key: str
    layer: str
    component_idx: int
    mean_ci: float
    activation_examples: list[ActivationExample]
    input_token_pmi: ComponentTokenPMI
    output_token_pmi: ComponentTokenPMI


@dataclass(frozen=True, slots=True)
class ComponentSummary:
    """The short entry of one component that fired at least once."""

    layer: str
    component_idx: int
    mean_ci: float
