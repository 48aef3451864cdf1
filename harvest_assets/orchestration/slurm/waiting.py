"""Why jobs wait: SLURM's reason in the log of each run, with what to do about it."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from harvest_assets.orchestration.slurm import cluster, jobs

_TURN = "other jobs come first"
_LIMIT = "a limit of the account, the QOS or the user is reached; `sacctmgr show assoc` lists them"
_NODES = "nodes that it needs are down, drained or reserved; `sinfo -R` says why"
_CONFIG = (
    "no node of the partition can run what it requests; see HARVEST_SLURM_CPUS, "
    "HARVEST_SLURM_GRES (`none` for no GPU) and HARVEST_SLURM_PARTITION"
)
# SLURM's words begin with these; the first that fits applies.
_EXPLANATIONS = (
    ("Priority", _TURN),
    ("Resources", _TURN),
    ("BeginTime", "SLURM starts it a little later"),
    ("PartitionConfig", _CONFIG),
    ("PartitionTimeLimit", "the partition does not allow that much time; see HARVEST_SLURM_TIME"),
    ("PartitionNodeLimit", "the partition does not allow that many nodes"),
    ("Partition", "the partition is not in service; see HARVEST_SLURM_PARTITION"),
    ("BadConstraints", "no node meets the options in HARVEST_SLURM_ARGS"),
    ("InvalidAccount", "the account does not exist here; see HARVEST_SLURM_ACCOUNT"),
    ("InvalidQOS", "the QOS does not exist here; see HARVEST_SLURM_QOS"),
    ("JobHeld", "it is held; `scontrol release` lets it go"),
    ("launch failed", "it could not be started on its node and is held; see `sinfo -R`"),
    ("ReqNodeNotAvail", _NODES),
    ("NodeDown", _NODES),
    ("Reservation", "it waits for a reservation"),
    ("Licenses", "it waits for a license"),
    ("Assoc", _LIMIT),
    ("QOS", _LIMIT),
    ("Max", _LIMIT),
)  # fmt: skip
_NOT_YET_KNOWN = ("", "None")


def explanation(reason: str) -> str:
    """What SLURM's reason means: `PartitionDown (the partition is not in service; ...)`."""
    meaning = next((text for start, text in _EXPLANATIONS if reason.startswith(start)), None)
    if meaning == _TURN:  # SLURM calls it Priority and Resources by turns
        return _TURN
    return f"{reason} ({meaning})" if meaning else reason


def log_reasons(instance: dg.DagsterInstance, waiting: Collection[dg.DagsterRun]) -> list[str]:
    """Write to the log of each waiting run why its job waits, unless its last entry says so.

    Args:
        instance: instance of the runs.
        waiting: runs whose jobs are pending.

    Returns:
        A sentence for each reason that is new, with its jobs.
    """
    runs = {run.tags[jobs.JOB_TAG]: run for run in waiting}
    new: dict[str, list[str]] = {}
    for number, reason in cluster.pending_reasons(runs).items():
        if reason in _NOT_YET_KNOWN:
            continue
        meaning = explanation(reason)
        if _log(instance, runs[number], f"Job {number} is waiting: {meaning}."):
            new.setdefault(meaning, []).append(number)
    return [
        f"{'Job' if len(numbers) == 1 else 'Jobs'} {', '.join(numbers)} waiting: {meaning}."
        for meaning, numbers in new.items()
    ]


def jobs_at_work(instance: dg.DagsterInstance, harvest: str) -> dict[str, str]:
    """The unfinished jobs of this user for a harvest, by number: partition, state and reason.

    Args:
        instance: where runs are recorded.
        harvest: its partition key.
    """
    ours = {
        it.tags[jobs.JOB_TAG]: it
        for it in jobs.unfinished_runs(instance)
        if _partition(it).split("|")[0] == harvest
    }
    states = jobs.states_of(ours.values())
    reasons = cluster.pending_reasons(ours)
    described = {}
    for number, it in ours.items():
        words = [f"{_partition(it)}: {states[it.run_id].lower()}"]
        words += [explanation(reasons[number])] if number in reasons else []
        described[number] = ", ".join(words)
    return described


def _partition(run: dg.DagsterRun) -> str:
    return run.tags.get("dagster/partition", "")


def _log(instance: dg.DagsterInstance, run: dg.DagsterRun, sentence: str) -> bool:
    """Whether the sentence was added, as it was not the newest event of the run."""
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    if events and events[-1].get_dagster_event().message == sentence:
        return False
    instance.report_engine_event(sentence, run)
    return True
