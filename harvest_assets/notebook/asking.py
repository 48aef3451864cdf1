"""Questions to the model of a harvest's run, answered in this process."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Any

from harvest_assets.errors import HarvestError
from harvest_assets.live.ablation import AblateQuestion, answer_ablation
from harvest_assets.live.live_model import files_of
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PromptQuestion, answer_prompt
from harvest_assets.live.weights import WeightsQuestion, answer_weights
from harvest_assets.notebook.answers import Ablation, Prompt, Weights
from harvest_assets.suggestions import quoted
from harvest_assets.viewer.prompted import described

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.viewer.harvest import Harvest


def prompt(harvest: Harvest, text: str | Sequence[int], **options: Any) -> Prompt:
    """Which components fire on a text; the options are fields of `PromptQuestion`."""
    question = PromptQuestion(**_text_or_ids(text), **options)
    answer = answer_prompt(_run_of(harvest.paths), question)
    return Prompt.of(described(harvest, answer, question.component))


def ablate(harvest: Harvest, text: str | Sequence[int], **options: Any) -> Ablation:
    """What is predicted without components; the options are fields of `AblateQuestion`."""
    question = AblateQuestion(**_text_or_ids(text), **options)
    return Ablation.of(answer_ablation(_run_of(harvest.paths), question), harvest.vocabulary)


def weights(harvest: Harvest, key: str, top: int) -> Weights:
    """What the weights of a component say."""
    question = WeightsQuestion(component=key, top=top)
    return Weights.of(answer_weights(_run_of(harvest.paths), question), harvest.vocabulary)


def _run_of(paths: HarvestLayout) -> OpenedRun:
    return _opened(paths, files_of(paths))


@lru_cache(maxsize=1)  # one model at a time, as in the viewer
def _opened(
    paths: HarvestLayout,
    files: Hashable,  # noqa: ARG001 - the run is opened again when they change
) -> OpenedRun:
    return OpenedRun(paths)


def _text_or_ids(text: str | Sequence[int]) -> dict[str, Any]:
    if isinstance(text, str):
        return {"text": text}
    try:
        if isinstance(text, (bytes, bytearray)):  # their bytes would count as ids
            raise TypeError
        return {"ids": tuple(map(index, text))}
    except TypeError:
        raise HarvestError(
            f"text is {quoted(text)}; expected a text, or the ids of its tokens."
        ) from None
