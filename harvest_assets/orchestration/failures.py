"""Bad input fails an asset at once, with one sentence, and is never retried.

Other errors, and those that may pass, are tried again three times, after 1, 3 and 7
minutes (`HARVEST_RETRY_SECONDS` is the first of them). A command that somebody waits for reports
them at once: it sets `HARVEST_MAX_RETRIES` to 0.
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
from harvest_assets.orchestration.environment import number_from
from harvest_assets.orchestration.slurm.requeue import requeued_when_interrupted

P = ParamSpec("P")
T = TypeVar("T")

MAX_RETRIES = "HARVEST_MAX_RETRIES"
RETRIES = dg.RetryPolicy(
    max_retries=number_from(MAX_RETRIES, 3, minimum=0),
    delay=number_from("HARVEST_RETRY_SECONDS", 60, minimum=0),
    backoff=dg.Backoff.EXPONENTIAL,
)

# Metadata of the observation of an asset that another process works on.
SKIPPED = "skipped"


@contextmanager
def bad_input_is_final() -> Iterator[None]:
    """Turn a `HarvestError` into a Dagster failure that no retry policy repeats.

    A `TransientError` is left to the retry policy.
    """
    try:
        yield
    except TransientError as error:
        raise dg.Failure(description=str(error), allow_retries=True) from error
    except HarvestError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def refuses_bad_input(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of an asset's function; see `bad_input_is_final`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with bad_input_is_final():
            return function(*args, **kwargs)

    return wrapped


def one_owner(
    work_of: Callable[[dg.AssetExecutionContext], tuple[Path, str]],
) -> Callable[[Callable[P, T]], Callable[P, Iterator[T]]]:
    """Decorator of an asset's function that lets one process at a time produce the value.

    The lease is held until the value is published. A second process produces nothing: the asset,
    which must be declared with `output_required=False`, and what depends on it are skipped, and an
    observation names the owner.

    Args:
        work_of: the lease's file, and what it is about.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, Iterator[T]]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            context = kwargs.get("context", args[0] if args else None)
            assert isinstance(context, dg.AssetExecutionContext)  # noqa: S101
            with requeued_when_interrupted(), bad_input_is_final():
                path, what = work_of(context)
                try:
                    with hold_lease(path, what):
                        value = function(*args, **kwargs)
                        check_held(path)
                        yield value
                except LeaseHeldError as error:
                    context.log.warning(str(error))
                    context.log_event(
                        dg.AssetObservation(
                            asset_key=context.asset_key,
                            partition=context.partition_key,
                            metadata={SKIPPED: str(error)},
                        )
                    )

        return wrapped

    return decorate
