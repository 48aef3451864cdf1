"""Why a Dagster run failed, from its events: one sentence, and the traceback for `--debug`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from harvest_assets.orchestration.failures import SKIPPED

_INTERRUPTS = {"KeyboardInterrupt", "DagsterExecutionInterruptedError"}
_ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)


def failure_of(result: dg.ExecuteInProcessResult) -> str | None:
    """See `failure_in`, for a run that this process has executed."""
    return failure_in(result.all_events, success=result.success)


def failure_in(events: Sequence[dg.DagsterEvent], *, success: bool) -> str | None:
    """Why a run failed, or which other process is doing its work.

    Args:
        events: of the run, in order.
        success: whether Dagster counts the run as a success.

    Returns:
        One sentence; None if the run did its work. It is the description of the failure that an
        asset raised, else the message of the innermost exception: Dagster wraps exceptions in
        its own, and raises some outside any step.
    """
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            skipped = event.asset_observation_data.asset_observation.metadata.get(SKIPPED)
            if skipped is not None:
                return str(skipped.value)
    if success:
        return None
    for event in events:
        data = event.step_failure_data.user_failure_data if event.is_step_failure else None
        if data is not None and data.description:
            return str(data.description)
    error = _error_in(events)
    if error is not None:
        return stored_message(error)
    ends = [event.message for event in events if event.event_type in _ENDS and event.message]
    return ends[-1] if ends else "The run failed; its log says why."


def was_interrupted(events: Sequence[dg.DagsterEvent]) -> bool:
    """Whether a failed run was ended by a signal to the process that executed it."""
    error = _error_in(events)
    while error is not None and error.cls_name not in _INTERRUPTS:
        error = error.cause
    return error is not None


def traceback_in(events: Sequence[dg.DagsterEvent]) -> str:
    """The traceback of the exception that failed a run, with its causes; empty if there is none."""
    error = _error_in(events)
    return "" if error is None else str(error.to_string())


def _error_in(events: Sequence[dg.DagsterEvent]) -> Any:
    """The exception of the run, else of its first failed step; None if there is none.

    The run comes first: when Dagster itself raises, the step at work is closed, and fails with a
    `GeneratorExit`.
    """
    errors = [
        event.job_failure_data.error
        for event in events
        if event.event_type == dg.DagsterEventType.RUN_FAILURE and event.event_specific_data
    ]
    errors += [event.step_failure_data.error for event in events if event.is_step_failure]
    return next((error for error in errors if error is not None), None)


def stored_message(error: Any) -> str:
    """The message of the innermost cause of an exception as Dagster stores it."""
    while error.cause is not None:
        error = error.cause
    return str(error.message).strip()
