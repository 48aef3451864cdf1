"""Lists the runs of a W&B project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harvest_assets.errors import HarvestError, TransientError, reason_of
from harvest_assets.wandb_client.files import may_pass
from harvest_assets.wandb_client.listed_run import ListedRun, listed_run
from harvest_assets.wandb_client.service import SECONDS_TO_ANSWER, prepare_service


def list_runs(
    project: str, filters: Mapping[str, Any], order: str, per_page: int
) -> tuple[int, Iterator[ListedRun]]:
    """Runs of a W&B project, page by page as they are iterated.

    Args:
        project: `entity/project`.
        filters: as the W&B client takes them.
        order: as the W&B client takes it, such as `-heartbeat_at`.
        per_page: runs of a request.

    Returns:
        How many runs there are, and the runs; also those whose fields are odd.

    Raises:
        TransientError: W&B cannot be reached, or does not answer now; also while iterating.
        HarvestError: there is no such project, or no API key.
    """
    import wandb

    try:
        prepare_service()
        found = wandb.Api(timeout=SECONDS_TO_ANSWER).runs(
            project, filters=dict(filters), order=order, per_page=per_page, lazy=True
        )
        # The client's own conversion gives up a page for one odd run, and makes folders for runs.
        found.convert_objects = lambda: _nodes(project, found.last_response)
        next(found, None)
        total = (found.last_response or {})["project"].get("runCount")
    except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
        raise _listing_error(project, error) from None

    def runs() -> Iterator[ListedRun]:
        nodes = iter(found)
        while True:
            try:
                node = next(nodes)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  (the kinds are the client's own)
                raise _listing_error(project, error) from None
            yield listed_run(node)

    return total if isinstance(total, int) else 0, runs()


def _nodes(project: str, answer: Any) -> list[Any]:
    """The entries of runs on a page of W&B's answer."""
    if not answer or not answer.get("project"):
        raise ValueError(f"there is no project {project}")
    page = answer["project"].get("runs") or {}
    # The client takes the start of the next page from the last entry.
    page["edges"] = [edge for edge in page.get("edges") or () if isinstance(edge, dict)]
    return [edge.get("node") for edge in page["edges"]]


def runs_filter(
    states: Sequence[str], created_from: str | None = None, created_until: str | None = None
) -> dict[str, Any]:
    """The filter of `list_runs` for runs in these states, created between two ISO times."""
    filters: dict[str, Any] = {"state": {"$in": list(states)}}
    created = {"$gte": created_from, "$lte": created_until}
    if any(created.values()):
        filters["createdAt"] = {sign: time for sign, time in created.items() if time}
    return filters


def _listing_error(project: str, error: Exception) -> HarvestError:
    kind = TransientError if may_pass(error) else HarvestError
    return kind(f"The runs of {project} could not be listed by W&B: {reason_of(error)}.")
