"""An unattended deployment for an hour, beside a W&B server that lies, with workers that die.

`python -m harvest_assets_tests.orchestration.soak --runs 200 --minutes 60 --seed 1`

1. `harvest-assets ui` watches a W&B project on this machine where runs appear, change, disappear
   and come back; some are broken. The server has a fault a third of the time.
2. Processes of Dagster runs are killed at random, Dagster itself four times, and twice its code
   server with all workers.
3. The automation harvests; for a fifth of the time it is off and the schedule does it.
4. When the events are over, the server is healthy and everything must be finished in a while: each
   sound run harvested once and right, each broken one failed, nothing left running, memory flat.

Events are drawn from the seed; which process is hit depends on the machine as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harvest_assets.orchestration.harvests import HarvestStatus
from harvest_assets.orchestration.partitions import registration
from harvest_assets.store.plan import HarvestPlan
from harvest_assets_tests.orchestration.soak import checks
from harvest_assets_tests.orchestration.soak.deployment import Deployment
from harvest_assets_tests.orchestration.soak.events import (
    N_WORLDS,
    Fault,
    Kind,
    PlannedRun,
    draw_schedule,
)
from harvest_assets_tests.orchestration.soak.memory import MemorySampler, draw, slopes
from harvest_assets_tests.orchestration.soak.unreliable_wandb import UnreliableWandb, times_of
from harvest_assets_tests.tiny_run import write_world

PROJECT = "ent/proj"
CHECKPOINT = "model_100.pth"
MB_PER_HOUR = 100.0
SETTINGS = {
    "N_BATCHES": "4",
    "BATCH_SIZE": "8",
    "AUTOMATION": "1",
    "MAX_ACTIVE_RUNS": "10",
    "WANDB_PROJECTS": PROJECT,
    "WANDB_SECONDS": "20",
    "RETRY_SECONDS": "10",
    "BACKFILL_CRON": "* * * * *",
}


def log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


class Soak:
    """One soak; the methods that are named as actions of events do what they say.

    Args:
        folder: for everything; empty.
        seed: decides what happens.
        n_runs: on W&B.
        seconds: in which it happens.
    """

    def __init__(self, folder: Path, seed: int, n_runs: int, seconds: float) -> None:
        self.folder, self.out, self.seconds = folder, folder / "out", seconds
        self.schedule = draw_schedule(seed, n_runs, seconds)
        self.server = UnreliableWandb(seed)
        self.worlds = [
            {
                file.name: file.read_bytes()
                for file in write_world(folder / f"w{n}", seed=n).iterdir()
            }
            for n in range(N_WORLDS)
        ]
        home = folder / ".local/share/harvest_assets/dagster"
        os.environ.update(SPD_OUT_DIR=str(self.out), DAGSTER_HOME=str(home))
        self._kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HARVEST_", "DAGSTER_", "SPD_", "PYTHONDONTWRITE"))
        }
        self._seed = seed

    def run(self) -> list[str]:
        """Everything; the problems found."""
        with self.server:
            self.environment = {
                **self._kept,
                **self.server.environment,
                "HOME": str(self.folder),
                "SPD_OUT_DIR": str(self.out),
                "OMP_NUM_THREADS": "1",
                **{f"HARVEST_{name}": value for name, value in SETTINGS.items()},
            }
            self.deployment = Deployment(self.environment, self.folder, self._seed)
            sampler = MemorySampler(self.folder / "memory.csv", lambda: self.deployment.root)
            began = time.monotonic()
            sampler.start()
            try:
                self._happen(began)
                finished = self._finish()
                log(
                    f"{'finished' if finished else 'NOT finished'} after "
                    f"{(time.monotonic() - began) / 60:.1f} min"
                )
                self._look()
            finally:
                self.deployment.stop()
                sampler.stop()
            log(f"struck: {' '.join(sorted(self.deployment.struck))}")
            draw(sampler.samples, self.folder / "memory.svg")
            return [*self._of_memory(sampler, time.monotonic() - began), *self._problems()]

    def _happen(self, began: float) -> None:
        for number, event in enumerate(self.schedule.events):
            while time.monotonic() - began < event.at:
                time.sleep(min(5.0, max(0.0, event.at - (time.monotonic() - began))))
            if number == 0:
                self._start()
            subject = (event.subject,) if event.subject != "" else ()
            getattr(self, event.action)(*subject)
            log(f"{event.action} {event.subject}")
            if number % 20 == 0:
                self._log_progress()
        self.healthy()

    def _start(self) -> None:
        self.deployment.start()
        self.deployment.start_schedule()

    def _finish(self) -> bool:
        """Wait until all that is wanted is done; whether it was within half of the time again."""
        deadline = time.monotonic() + max(900.0, self.seconds / 2)
        while time.monotonic() < deadline:
            if self._log_progress():
                time.sleep(60)  # what is started twice is started by then
                return True
            time.sleep(20)
        return False

    def _log_progress(self) -> bool:
        found = checks.statuses()
        counts = Counter(status.name for status in found.values())
        log(f"  {len(self.server.runs)} runs, {dict(counts)}, {self.deployment.n_killed} killed")
        right = {
            key
            for keys, status in (
                (self.sound, HarvestStatus.HARVESTED),
                (self.broken, HarvestStatus.FAILED),
            )
            for key in keys
            if found.get(key) == status
        }
        return right == self.sound | self.broken

    @property
    def sound(self) -> set[str]:
        return {key(run) for run in self.schedule.runs if run.kind != Kind.BROKEN}

    @property
    def broken(self) -> set[str]:
        return {key(run) for run in self.schedule.runs if run.kind == Kind.BROKEN}

    def _look(self) -> None:
        """Keep pictures of the pages, if there is a browser."""
        os.environ["HARVEST_SCREENSHOTS"] = str(self.folder)
        from harvest_assets_tests.orchestration.test_unattended import CHROMIUM, LOCATION, shown

        pages: dict[str, tuple[str, ...]] = {
            "assets/harvest_shard?view=partitions": (PROJECT, "Materialized"),
            "runs": ("Success",),
            f"{LOCATION}/sensors/new_wandb_runs": (PROJECT,),
        }
        if CHROMIUM is not None:
            try:
                shown(self.deployment.address, pages)
            except Exception as error:  # noqa: BLE001  the checks that follow matter more
                log(f"no pictures: {error}")

    def _problems(self) -> list[str]:
        time.sleep(5)
        problems = list(checks.of_records(self.sound, self.broken, self.deployment.struck))
        right: dict[tuple[int, int], Path] = {}
        for run in self.schedule.runs:
            if run.kind == Kind.BROKEN or not registration(key(run)).layout.components.exists():
                continue
            n_shards = HarvestPlan.open(registration(key(run)).layout.root).n_shards
            case = (run.world, n_shards)
            if case not in right:
                other = self.folder / f"right-{run.world}-{n_shards}"
                right[case] = checks.harvest_by_command(key(run), n_shards, self.environment, other)
            problems += checks.of_files(key(run), right[case])
        return [*problems, *checks.of_processes(self.out), *checks.of_leftovers(self.out)]

    def _of_memory(self, sampler: MemorySampler, seconds: float) -> list[str]:
        problems = []
        for role, slope in slopes(sampler.samples, seconds / 2).items():
            of_role = [sample for sample in sampler.samples if sample.role == role]
            log(f"{role}: {of_role[-1].uss_mb:.0f} MB at the end, {slope:+.1f} MB an hour")
            if slope > MB_PER_HOUR:
                problems.append(f"the memory of the {role} grows by {slope:.0f} MB an hour")
        return problems

    # Actions of events

    def appear(self, number: int) -> None:
        run = self.schedule.runs[number]
        files = self._files(run)
        if run.kind == Kind.NO_FILES:
            files = {}
        if run.kind in (Kind.NO_CHECKPOINT, Kind.RETURNS):
            del files[CHECKPOINT]
        if run.kind == Kind.BROKEN:
            files[CHECKPOINT] = files[CHECKPOINT][:3000]
        state = "running" if run.kind == Kind.RUNNING else "finished"
        self.server.add_run(key(run), files, state=state, **times(run))

    def change(self, number: int) -> None:
        run = self.schedule.runs[number]
        if run.kind == Kind.RETURNS:
            self.server.add_run(key(run), self._files(run), **times(run))
            return
        there = self.server.runs[key(run)]
        if run.kind == Kind.RUNNING:
            there.state = "finished"
            there.heartbeat_at = times(run)["heartbeat_at"]
        elif run.kind == Kind.RENAMED:
            there.odd = {"displayName": f"renamed {number}"}
        else:
            there.files = self._files(run)

    def disappear(self, number: int) -> None:
        del self.server.runs[key(self.schedule.runs[number])]

    def _files(self, run: PlannedRun) -> dict[str, bytes]:
        return dict(self.worlds[run.world])

    def fault(self, fault: Fault) -> None:
        self.server.begin(fault)

    def healthy(self) -> None:
        self.server.end()

    def kill_worker(self) -> None:
        self.deployment.kill_worker()

    def kill_daemon(self) -> None:
        self.deployment.kill_daemon()

    def kill_code_server(self) -> None:
        self.deployment.kill_code_server()

    def kill_tree(self) -> None:
        self.deployment.kill_tree()

    def terminate(self) -> None:
        self.deployment.terminate()

    def automation_off(self) -> None:
        self.deployment.automation(on=False)

    def automation_on(self) -> None:
        self.deployment.automation(on=True)


def key(run: PlannedRun) -> str:
    return f"{PROJECT}/{run.run_id}"


def times(run: PlannedRun) -> dict[str, str]:
    return times_of(run.hours_old, run.minutes_silent, run.spelling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept afterwards; empty or new")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="harvest-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder.absolute(), given.seed, given.runs, 60 * given.minutes)
    problems = soak.run()
    log(f"faults met: {dict(soak.server.struck)}")
    log(
        f"{soak.deployment.n_starts} starts, {soak.deployment.n_killed} workers killed; in {folder}"
    )
    for problem in problems:
        log(f"PROBLEM {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
