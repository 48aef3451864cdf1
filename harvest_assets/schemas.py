"""The types that the loaders return, and the bins of `ci_histogram`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The uniform sample by priority, or the firings of highest causal importance or largest activation.
ExampleOrder = Literal["sample", "ci", "activation"]

N_CI_BINS = 64


def ci_bin_edges(n_bins: int = N_CI_BINS) -> NDArray[np.float64]:
    """The inner edges of the bins of causal importances [n_bins - 1], rising.

    The first bin is below 1e-6, the last from 1 upwards (where saturated and overshooting sigmoids
    end), the others have equal widths in log CI. A bin holds its lower edge.
    """
    import numpy as np

    return np.logspace(-6, 0, n_bins - 1)


@dataclass(frozen=True, slots=True)
class ActivationExample:
    """A window of tokens with one firing in the middle.

    All three lists are `2 * activation_context_tokens_per_side + 1` long; outside the sequence the
    token is -1 and the values are 0.0.

    Args:
        token_ids: the tokens.
        ci_values: causal importance of the component at each.
        component_acts: activation of the component at each.
    """

    token_ids: list[int]
    ci_values: list[float]
    component_acts: list[float]

    def __repr__(self) -> str:
        n = len(self.token_ids)
        values = zip(self.token_ids, self.ci_values, self.component_acts, strict=False)
        firing = "".join(
            f", firing on {token}, CI {ci:.3g}, activation {act:.3g}"
            for token, ci, act in list(values)[n // 2 : n // 2 + 1]
        )
        return f"{type(self).__name__}({n} tokens{firing}{self._where()})"

    def _where(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, repr=False)
class LocatedExample(ActivationExample):
    """An example with the row of the harvest and the position in it; None where not recorded."""

    row: int | None = None
    position: int | None = None

    def _where(self) -> str:
        return "" if self.row is None else f", row {self.row}, position {self.position}"


@dataclass(frozen=True, slots=True)
class ComponentTokenPMI:
    """Tokens with their pointwise mutual information (natural log).

    Only tokens that occurred with the component.

    Args:
        top: (token id, PMI), highest first.
        bottom: (token id, PMI), lowest first.
    """

    top: list[tuple[int, float]]
    bottom: list[tuple[int, float]]

    def __repr__(self) -> str:
        first = ", ".join(f"{token}: {pmi:.3g}" for token, pmi in self.top[:3])
        return f"ComponentTokenPMI({len(self.top)} top, {len(self.bottom)} bottom; {first})"


@dataclass(frozen=True, slots=True)
class ComponentData:
    """The results for one component that fired at least once.

    Args:
        component_key: `<layer>:<index>`.
        layer: name of the layer.
        component_idx: index in the layer.
        mean_ci: causal importance, averaged over all positions.
        activation_examples: a uniform sample of its firings.
        input_token_pmi: the tokens on which it fires.
        output_token_pmi: the tokens that the model predicts there.
    """

    component_key: str
    layer: str
    component_idx: int
    mean_ci: float
    activation_examples: list[ActivationExample]
    input_token_pmi: ComponentTokenPMI
    output_token_pmi: ComponentTokenPMI

    def __repr__(self) -> str:
        return (
            f"ComponentData({self.component_key!r}, mean CI {self.mean_ci:.3g}, "
            f"{len(self.activation_examples)} examples, {len(self.input_token_pmi.top)} input and "
            f"{len(self.output_token_pmi.top)} output tokens)"
        )


@dataclass(frozen=True, slots=True)
class ComponentSummary:
    """The short entry of one component that fired at least once.

    Args:
        layer: name of the layer.
        component_idx: index in the layer.
        mean_ci: causal importance, averaged over all positions.
    """

    layer: str
    component_idx: int
    mean_ci: float
