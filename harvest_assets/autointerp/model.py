"""The one place that calls a language model, through `pydantic-ai` and the OpenAI client below it.

The client repeats a call after a time-out, a 429 or a 5xx, later each time, as the server asks. An
unusable answer is shown to the model with what is wrong with it, as often as `reasks` allows.
"""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from harvest_assets.autointerp.answers import Answer, Question, judged
from harvest_assets.autointerp.budget import Budget
from harvest_assets.autointerp.settings import ModelSettings
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.sanitize import presentable

_OPENAI = "api.openai.com"
_NO_KEY = "none"  # the client wants one, local servers do not
_REFUSED = {
    401: "the key in {variable} is not accepted",
    403: "access with the key in {variable} is denied",
    404: "the model, or the address, is not there",
}
_QUESTION_REFUSED = (400, 413, 422)  # too long, or not allowed
# What the libraries raise for responses that are not in the protocol, depending on what is odd.
_OF_ODD_RESPONSES = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_SECONDS_BETWEEN_RETRIES = 60.0  # at most, of the client


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise HarvestError(f"{variable} holds characters that a key cannot have.")
    return key or _NO_KEY


class NoAnswerError(HarvestError):
    """A question that was not answered, for a reason outside of the question.

    Args:
        message: why.
        calls: that it took.
    """

    def __init__(self, message: str, calls: int = 0) -> None:
        super().__init__(message)
        self.calls = calls


class QuestionRefusedError(NoAnswerError):
    """A question that was refused, and would be again.

    Args:
        message: why.
        answer: that may be stored in its place, of no use.
    """

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message, answer.calls)
        self.answer = answer


@dataclass
class _Calls:
    """Requests that were sent for one question."""

    sent: int = 0


_calls: ContextVar[_Calls] = ContextVar("_calls")


class ChatModel:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        settings: with an endpoint and a model.
        budget: that its calls are counted against; one of its own by default.

    Raises:
        HarvestError: one of them is missing, or the libraries are not installed.
    """

    def __init__(self, settings: ModelSettings, budget: Budget | None = None) -> None:
        settings.require_model()
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
            from pydantic_ai import Agent
            from pydantic_ai.models.openai import OpenAIChatModel
            from pydantic_ai.providers.openai import OpenAIProvider
            from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
        except ImportError as error:
            raise HarvestError(
                "Calling a model needs further libraries; install them with "
                "pip install 'harvest_assets[autointerp]'."
            ) from error
        self._settings = settings
        self.budget = budget or Budget(settings)
        self.name = str(settings.model)
        self._client = AsyncOpenAI(
            base_url=settings.endpoint,
            api_key=_key(settings.key_variable),
            timeout=settings.timeout_seconds,
            max_retries=settings.retries,
            http_client=DefaultAsyncHttpxClient(
                follow_redirects=False,  # prompts go to this endpoint only
                event_hooks={"request": [self._count_call]},
            ),
        )
        provider = (
            OpenAIProvider(openai_client=self._client)
            if urlsplit(str(settings.endpoint)).hostname == _OPENAI
            else OpenAICompatibleProvider("endpoint", openai_client=self._client)
        )
        chat = OpenAIChatModel(self.name, provider=provider)
        self._agent: Agent[None, Any] = Agent(
            chat,
            output_type=str,
            model_settings={"max_tokens": settings.max_tokens},
            retries=settings.reasks,
        )
        # A server that sends a byte now and then never runs into the client's own time-out.
        tries = (settings.retries + 1) * (settings.reasks + 1)
        self._seconds = tries * (settings.timeout_seconds + _SECONDS_BETWEEN_RETRIES)

    async def ask(self, question: Question) -> Answer:
        """The answer to a question, usable or not.

        Raises:
            HarvestError: the endpoint refuses all questions, because of the key or the model.
            QuestionRefusedError: it will never answer this one.
            NoAnswerError: it did not answer this one, also after the retries.
        """
        from openai import OpenAIError
        from pydantic_ai import ModelRetry, TextOutput
        from pydantic_ai.exceptions import AgentRunError
        from pydantic_ai.usage import RunUsage

        last, usage, calls = "", RunUsage(), _Calls()
        _calls.set(calls)

        def checked(text: str) -> str:
            nonlocal last
            last = text
            try:
                question.read(text)
            except ValueError as error:
                raise ModelRetry(f"Your answer is not valid: {error}.") from None
            return text

        def answer() -> Answer:
            return judged(
                question,
                self.name,
                last,
                endpoint=str(self._settings.endpoint),
                calls=calls.sent,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
            )

        try:
            async with asyncio.timeout(self._seconds):
                await self._agent.run(
                    question.prompt.question,
                    instructions=question.prompt.instructions,
                    output_type=TextOutput(checked),
                    usage=usage,
                )
        except (AgentRunError, OpenAIError, TimeoutError, *_OF_ODD_RESPONSES) as error:
            failure = self._failure(error, answer())
            if failure is not None:
                raise failure from None
        return answer()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _count_call(self, _: object) -> None:
        """Count a request that is about to be sent, or refuse to send it."""
        from openai import OpenAIError

        calls = _calls.get()
        # The first call of each question was counted when the question was begun.
        if calls.sent and not self.budget.take_another_call():
            raise OpenAIError(f"{self.budget.limit_of_calls} is reached")  # is not repeated
        calls.sent += 1

    def _failure(self, error: BaseException, answer: Answer) -> HarvestError | None:
        """The error to raise, without what the server echoes of the request.

        Args:
            error: of a library.
            answer: with what the model said until then.

        Returns:
            None where the answer is one, although of no use.
        """
        from pydantic_ai.exceptions import (
            ContentFilterError,
            ModelHTTPError,
            OutputTokenLimitExceeded,
            UnexpectedModelBehavior,
        )

        where = f"{self._settings.endpoint} (model {self.name})"
        status = error.status_code if isinstance(error, ModelHTTPError) else None
        if status in _REFUSED:
            why = _REFUSED[status].format(variable=self._settings.key_variable)
            return HarvestError(presentable(f"{where} answers {status}: {why}."))
        said = f"status {status}" if status is not None else reason_of(error)
        message = presentable(f"{where} did not answer: {said}.")
        of_the_question = (ContentFilterError, OutputTokenLimitExceeded)
        if status in _QUESTION_REFUSED or isinstance(error, of_the_question):
            return QuestionRefusedError(message, replace(answer, problem=presentable(said)))
        if isinstance(error, UnexpectedModelBehavior) and (answer.text or answer.output_tokens):
            return None
        return NoAnswerError(message, answer.calls)
