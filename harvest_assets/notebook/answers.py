"""What the model of a run answers, for a notebook or a terminal: values, lines of text, frames."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, PrivateAttr

from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import counted
from harvest_assets.live.ablation import AblateAnswer
from harvest_assets.live.weights import WeightsAnswer
from harvest_assets.notebook.lines import line
from harvest_assets.viewer.prompted import DescribedPrompt

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

_LINES = 20


class _Printed:
    """An answer that prints what its command does; its `repr` has the first lines of that."""

    def _print_to(self, console: Console) -> None:
        raise NotImplementedError

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        self._print_to(
            Console(
                file=text,
                force_jupyter=False,
                color_system=None,
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        )
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        lines = str(self).splitlines()
        more = len(lines) - _LINES
        shown = [line(it.rstrip()) for it in lines[:_LINES]]
        return "\n".join([*shown, f"… and {counted(more, 'line')} more"] if more > 0 else shown)


class _Unnamed:
    """A tokenizer of no tokens."""

    vocab_size = 0

    def decode(self, _ids: object) -> str:
        return ""


def _only_ids() -> Vocabulary:
    """Shows tokens as their ids: an answer that was read from JSON has no texts."""
    return Vocabulary(_Unnamed())


class _OfTokens(_Printed, BaseModel):
    """An answer that names tokens by their ids."""

    _vocabulary: Vocabulary = PrivateAttr(default_factory=_only_ids)

    @classmethod
    def of(cls, answer: BaseModel, vocabulary: Vocabulary) -> Self:
        """An answer as a notebook shows it, its tokens as texts."""
        made = cls(**dict(answer))
        made._vocabulary = vocabulary
        return made


class Prompt(_Printed, DescribedPrompt):
    """Which components fire on a text, and what is predicted; `print` shows all of it."""

    @classmethod
    def of(cls, answer: DescribedPrompt) -> Self:
        """An answer as a notebook shows it."""
        return cls(**dict(answer))

    def frame(self) -> pl.DataFrame:
        """A row for each component listed at each token, the strongest first.

        Columns: position, token_id, token, component_key, strength, second, percentile, label.
        """
        import polars as pl

        schema = {"position": pl.Int64, "token_id": pl.Int32, "token": pl.String}
        schema |= {"component_key": pl.String, "strength": pl.Float64, "second": pl.Float64}
        schema |= {"percentile": pl.Float64, "label": pl.String}
        rows = [
            (
                i,
                at.token_id,
                at.token,
                it.component,
                it.strength,
                it.second,
                it.percentile,
                it.label,
            )
            for i, at in enumerate(self.positions)
            for it in at.firing
        ]
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _print_to(self, console: Console) -> None:
        from harvest_assets.printed.prompt import print_prompt

        print_prompt(self, console)


class Ablation(_OfTokens, AblateAnswer):
    """What is predicted without components; `print` shows all of it."""

    def frame(self) -> pl.DataFrame:
        """A row for each token.

        Columns: position, token_id, token, kl (KL divergence of the full model's prediction from
        the changed one's, in nats; null where nothing was taken out) and kl_ci_masked.
        """
        import polars as pl

        ids = [it.token_id for it in self.positions]
        masked = [it.kl for it in self.ci_masked.positions]
        changed = None if self.changed is None else [it.kl for it in self.changed.positions]
        columns = {
            "position": pl.Series(range(len(ids)), dtype=pl.Int64),
            "token_id": pl.Series(ids, dtype=pl.Int32),
            "token": pl.Series(map(self._vocabulary.text, ids), dtype=pl.String),
            "kl": pl.Series(changed or [None] * len(ids), dtype=pl.Float64),
            "kl_ci_masked": pl.Series(masked, dtype=pl.Float64),
        }
        return pl.DataFrame(columns)

    def _print_to(self, console: Console) -> None:
        from harvest_assets.printed.asked import print_ablation

        print_ablation(self, self._vocabulary, console)


class Weights(_OfTokens, WeightsAnswer):
    """What the weights of a component say; `print` shows all of it."""

    def frame(self) -> pl.DataFrame:
        """A row for each token listed: direction (`input` or `output`), token_id, token, value."""
        import polars as pl

        rows = [
            (direction, it.token_id, self._vocabulary.text(it.token_id), it.value)
            for direction, side in (("input", self.reads), ("output", self.writes))
            if side is not None
            for it in (*side.highest, *side.lowest[::-1])
        ]
        schema = {"direction": pl.String, "token_id": pl.Int32, "token": pl.String}
        return pl.DataFrame(rows, schema=schema | {"value": pl.Float64}, orient="row")

    def neighbours(self) -> pl.DataFrame:
        """A row for each component with similar weights: those of its layer, then of others.

        Columns: component_key, cosine (of the components as matrices), cosine_in, cosine_out.
        """
        import polars as pl

        rows = [
            (it.component, it.cosine, it.cosine_in, it.cosine_out)
            for it in (*self.same_layer, *self.other_layers)
        ]
        names = ("cosine", "cosine_in", "cosine_out")
        schema = {"component_key": pl.String} | dict.fromkeys(names, pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _print_to(self, console: Console) -> None:
        from harvest_assets.printed.asked import print_weights

        print_weights(self, self._vocabulary, console)
