"""What a model predicts without components, and what weights say, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from harvest_assets.live.ablation import AblateAnswer, ChangedModel, TokenChange
from harvest_assets.live.weights import Neighbour, WeightsAnswer
from harvest_assets.printed.component import quoted
from harvest_assets.viewer.figures import percent, short

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import Vocabulary


def print_ablation(answer: AblateAnswer, vocabulary: Vocabulary, console: Console) -> None:
    """Print how the predictions of a text change.

    Args:
        answer: of the question `ablate`.
        vocabulary: of the run.
        console: to print to.
    """
    models = [("CI-masked", answer.ci_masked)]
    if answer.changed is not None:
        models.insert(0, ("changed", answer.changed))
    console.print(f"{len(answer.positions):,} tokens; KL divergence from the full model, in nats")
    for name, model in models:
        console.print(Text.assemble((f"{name:>10}", "bold cyan"), f"  mean {short(model.mean_kl)}"))
    for i, position in enumerate(answer.positions):
        line = Text.assemble(
            (f"{i:>4}  ", "dim"), (quoted(vocabulary.text(position.token_id)), "bold")
        )
        if position.predictions:
            line.append("  next  ", "dim").append(
                "  ".join(
                    f"{quoted(vocabulary.text(it.token_id))} {percent(it.probability)}"
                    for it in position.predictions
                )
            )
        console.print(line)
        for name, model in models:
            console.print(_changes(name, model, i, vocabulary))


def _changes(name: str, model: ChangedModel, i: int, vocabulary: Vocabulary) -> Text:
    there = model.positions[i]

    def listed(changes: tuple[TokenChange, ...]) -> str:
        return "  ".join(
            f"{quoted(vocabulary.text(it.token_id))} {percent(it.before)} → {percent(it.after)}"
            for it in changes
        )

    line = Text.assemble((f"{name:>16}", "cyan"), f"  {short(there.kl)}")
    for word, changes in (("gain", there.gains), ("lose", there.losses)):
        if changes:
            line.append(f"  {word} ", "bold").append(listed(changes))
    return line


def print_weights(answer: WeightsAnswer, vocabulary: Vocabulary, console: Console) -> None:
    """Print what the weights of a component say.

    Args:
        answer: of the question `weights`.
        vocabulary: of the run.
        console: to print to.
    """
    console.print(Text(answer.component, "bold cyan"))
    for name, verbs, words, side in (
        ("input", "read", ("answers most to", "with the other sign to"), answer.reads),
        ("output", "write to", ("promotes", "suppresses"), answer.writes),
    ):
        if side is None:
            console.print(
                f"  {name} direction: its layer is not known to {verbs} the residual stream of a "
                f"{answer.target}"
            )
            continue
        for word, values in zip(words, (side.highest, side.lowest), strict=True):
            listed = "  ".join(
                f"{quoted(vocabulary.text(it.token_id))} {short(it.value)}" for it in values
            )
            console.print(Text.assemble((f"  {name} {word}  ", "bold"), listed))
    for heading, rows in (
        ("nearest in its layer", answer.same_layer),
        ("nearest in other layers", answer.other_layers),
    ):
        _print_neighbours(heading, rows, console)


def _print_neighbours(heading: str, rows: tuple[Neighbour, ...], console: Console) -> None:
    console.print(Text(heading, "bold"), Text("cosine (input, output)", "dim"))
    for it in rows:
        values = f"{short(it.cosine)} ({short(it.cosine_in)}, {short(it.cosine_out)})"
        console.print(Text.assemble("  ", (f"{it.component:<24}", "cyan"), f"  {values}"))
