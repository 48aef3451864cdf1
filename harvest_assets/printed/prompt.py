"""The components that fire on a text, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from harvest_assets.errors import counted
from harvest_assets.files.sanitize import plain_text
from harvest_assets.printed.component import on_one_line, quoted, shade
from harvest_assets.viewer.figures import percent, short
from harvest_assets.viewer.prompted import DescribedFiring, DescribedPosition, DescribedPrompt

_KEY_WIDTH = 24


def print_prompt(prompt: DescribedPrompt, console: Console) -> None:
    """Print the tokens of a text with the components that fire on each.

    Args:
        prompt: the answer.
        console: to print to.
    """
    n = counted(len(prompt.positions), "token")
    fire = counted(prompt.n_components, "component fires", "components fire")
    console.print(f"{n}, {fire} ({prompt.firing_strength} above {prompt.threshold:g})")
    if prompt.component is not None:
        console.print(_shaded(prompt), "\n")
    for number, position in enumerate(prompt.positions):
        if position.predictions:  # those of the positions that were asked for
            console.print(_head(prompt, number, position))
            for firing in position.firing:
                console.print(_firing(prompt, firing))


def _shaded(prompt: DescribedPrompt) -> Text:
    """The whole text, shaded by the component that was asked for."""
    text = Text.assemble((f"{prompt.component}  ", "bold cyan"))
    highest = max([1.0, *(abs(it.strength or 0.0) for it in prompt.positions)])
    for it in prompt.positions:
        fires = (it.strength or 0.0) > prompt.threshold
        text.append(on_one_line(it.token), shade((it.strength or 0.0) / highest, fires=fires))
    return text


def _head(prompt: DescribedPrompt, number: int, position: DescribedPosition) -> Text:
    predicted = "  ".join(
        f"{quoted(it.token)} {percent(it.probability)}" for it in position.predictions
    )
    line = Text.assemble(
        (f"{number:>4}  ", "dim"),
        (quoted(position.token), "bold"),
        (f"  {position.n_firing:,} fire; next  ", "dim"),
        predicted,
    )
    if prompt.component is not None and position.strength is not None:
        line.append(f"  {prompt.component} {short(position.strength)}", "cyan")
    return line


def _firing(prompt: DescribedPrompt, firing: DescribedFiring) -> Text:
    second = "" if firing.second is None else f"{prompt.second_value} {short(firing.second)}"
    typical = "" if firing.percentile is None else f"percentile {100 * firing.percentile:.0f}"
    reads = "reads " + " ".join(map(quoted, firing.reads)) if firing.reads else ""
    meaning = plain_text(firing.label).replace("\n", " ") if firing.label else reads
    values = [short(firing.strength), typical, second, meaning]
    line = Text.assemble("        ", (f"{firing.component:<{_KEY_WIDTH}}", "cyan"))
    return line.append("  " + "  ".join(value for value in values if value))
