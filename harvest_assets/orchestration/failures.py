"""Bad input fails an asset at once, with one sentence, and is never retried.

Other errors are tried again three times, after 1, 3 and 7 minutes (`HARVEST_RETRY_SECONDS` is the
first of them); those of other services, which may pass, six times, within an hour. A command that
somebody waits for reports them at once: it sets `HARVEST_MAX_RETRIES` to 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import dagster as dg

from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files.lease import LeaseHeldError, check_held, hold_lease
from harvest_assets.files.sanitize import RedactingFilter, presentable, presentable_error
from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.orphaned_runs import record_owner
from harvest_assets.orchestration.slurm.requeue import requeued_when_interrupted

P = ParamSpec("P")
T = TypeVar("T")

MAX_RETRIES = "HARVEST_MAX_RETRIES"
_settings = UnattendedSettings.from_environment()
RETRIES = dg.RetryPolicy(
    max_retries=_settings.max_retries,
    delay=_settings.retry_seconds,
    backoff=dg.Backoff.EXPONENTIAL,
)

_MAX_RETRIES_OF_SERVICES = 2 * _settings.max_retries

# Metadata of the observation of an asset that another process works on.
SKIPPED = "skipped"


@contextmanager
def presentable_errors() -> Iterator[None]:
    """Keep secrets out of what Dagster stores of an error: its text, causes and traceback."""
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        shown = presentable_error(error)
        if shown is error:
            raise
        raise shown from shown.__cause__  # hides the error itself, which is its context


@contextmanager
def bad_input_is_final() -> Iterator[None]:
    """Turn a `HarvestError` into a Dagster failure that no retry policy repeats.

    One that may pass by itself is left to the retry policy. No error shows a secret.
    """
    with presentable_errors():
        try:
            yield
        except HarvestError as error:
            raise dg.Failure(
                description=presentable(str(error)),
                allow_retries=isinstance(error, TransientError),
            ) from presentable_error(error)


def refuses_bad_input(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of an asset's function: only what may pass by itself is tried again."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        context = kwargs.get("context", args[0] if args else None)
        _begin(context)
        with _services_are_asked_again(context), bad_input_is_final():
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def _services_are_asked_again(context: object) -> Iterator[None]:
    """Try again what may pass by itself, more often than the retry policy does."""
    try:
        yield
    except dg.Failure as failure:
        if not (failure.allow_retries and isinstance(context, dg.AssetExecutionContext)):
            raise
        delay = RETRIES.calculate_delay(context.retry_number + 1)
        raise dg.RetryRequested(_MAX_RETRIES_OF_SERVICES, delay) from failure


def _begin(context: object) -> None:
    """Record who executes a run, and keep secrets out of its log, if there is a context."""
    if isinstance(context, dg.AssetExecutionContext | dg.AssetCheckExecutionContext):
        record_owner(context.instance, context.run)
        context.log.addFilter(RedactingFilter())


def one_owner(
    work_of: Callable[[dg.AssetExecutionContext], tuple[Path, str]],
) -> Callable[[Callable[P, T]], Callable[P, Iterator[T]]]:
    """Decorator of an asset's function that lets one process at a time produce the value.

    The lease is held until the value is published. A second process produces nothing: the asset,
    which must be declared with `output_required=False`, and what depends on it are skipped, and an
    observation names the owner.

    Args:
        work_of: the lease's file, and the work that it protects.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, Iterator[T]]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            context = kwargs.get("context", args[0] if args else None)
            assert isinstance(context, dg.AssetExecutionContext)  # noqa: S101
            _begin(context)
            with requeued_when_interrupted(), bad_input_is_final():
                path, what = work_of(context)
                try:
                    with hold_lease(path, what):
                        value = function(*args, **kwargs)
                        check_held(path)
                        yield value
                except LeaseHeldError as error:
                    context.log.warning(presentable(str(error)))
                    context.log_event(
                        dg.AssetObservation(
                            asset_key=context.asset_key,
                            partition=context.partition_key,
                            metadata={SKIPPED: presentable(str(error))},
                        )
                    )

        return wrapped

    return decorate
