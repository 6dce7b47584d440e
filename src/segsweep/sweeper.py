"""The grid sweeper, Hydra's ``-m`` by default: plans all jobs, refuses mistakes at once, runs what is left."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from segsweep.command import stop
from segsweep.composer import Composer
from segsweep.endings import disk_advice
from segsweep.hints import written
from segsweep.inspection import inspect_jobs
from segsweep.launcher import LocalLauncher, finish, sweep_options
from segsweep.plan import Plan, make_plan
from segsweep.run import FINISHED, ConfigError, LockedError, lock
from segsweep.state import STATES
from segsweep.sweep import Job, Outcome
from segsweep.sweep.ending import outcome_of
from segsweep.sweep.failures import write_failures
from segsweep.sweep.groups import num_groups
from segsweep.sweep.ledger import mend_ledger
from segsweep.sweep.processes import call, warm_up
from segsweep.sweep.progress import duration
from segsweep.sweep.records import put_damaged_aside, readable
from segsweep.sweep.slots import uses_gpu

log = logging.getLogger(__name__)


class GridSweeper(Sweeper):
    """Every combination of the swept values, once.

    The same command continues the sweep: finished jobs are skipped, interrupted ones continued, failed ones tried
    again. An override of a key that only some jobs have is left out of the others.

    Args:
        params: key -> values, e.g. from an experiment file; the command line replaces them.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's: takes the composed config of the sweep and makes the launcher."""
        warm_up()  # its imports go on while jobs are composed
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Hydra's: runs the sweep.

        Args:
            arguments: overrides of the task.

        Returns:
            What became of each job that was left to run; none after a dry run.

        Raises:
            SystemExit: a mistake (1), a job failed (3), or the sweep was stopped (130, 143).
        """
        options = sweep_options(self.config)
        folder = Path(self.config.hydra.sweep.dir)
        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        composer = Composer.of(self.config)
        try:
            plan = make_plan(
                folder,
                overrides,
                () if options.zip is None else options.zip,
                composer,
                lambda jobs: call(inspect_jobs, jobs),
            )
            if options.dry_run:
                print(describe(plan, self._num_at_once(plan)))
                return []
            if not plan.pending:
                with contextlib.suppress(OSError, LockedError), lock(folder):  # it may be an archive that nobody writes
                    _mend(plan)
                return run(self.launcher, plan)
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder):
                _mend(plan)
                return run(self.launcher, plan)
        except ConfigError as error:
            stop(str(error).splitlines())
        except OSError as error:
            if (advice := disk_advice(error, folder)) is None:
                raise
            stop([advice])

    def _num_at_once(self, plan: Plan) -> int:
        if isinstance(self.launcher, LocalLauncher):
            return self.launcher.num_at_once(plan.jobs)
        return max(1, len(plan.pending))  # somebody else's queue


def _mend(plan: Plan) -> None:
    """Repairs what a kill or a disk has damaged; this process has the sweep."""
    put_damaged_aside(plan.folder)
    mend_ledger(plan.folder, [job.name for job, state in zip(plan.jobs, plan.states, strict=True) if state == "done"])


def run(launcher: Launcher, plan: Plan) -> list[Outcome]:
    """Has a launcher run what is left of a plan; ours by jobs, others by overrides.

    Raises:
        SystemExit: a job failed, or the sweep was stopped.
    """
    # Another process may have finished jobs between the plan and the lock.
    jobs = [job for job in plan.pending if readable(job.folder).get("status") not in FINISHED]
    folder = os.path.relpath(plan.folder)
    if not jobs:
        log.info("%s: all %d jobs are done already. Who wins: segsweep-report %s", folder, len(plan.jobs), folder)
        return []
    log.info("%s: %d jobs, %d of them done already", folder, len(plan.jobs), len(plan.jobs) - len(jobs))
    if isinstance(launcher, LocalLauncher):
        if num_groups(plan.jobs) < len(plan.jobs) and not uses_gpu(jobs[0].identity.get("trainer")):
            log.warning("trainer.stack_seeds: on a CPU, seeds are quicker each by itself, but for the smallest models")
        outcomes = launcher.run(jobs, plan.jobs)
    else:
        outcomes = _run_elsewhere(launcher, jobs)
        write_failures(plan.folder, outcomes)
    finish(plan.folder, outcomes)
    return outcomes


def _run_elsewhere(launcher: Launcher, jobs: Sequence[Job]) -> list[Outcome]:
    """Other launchers compose each job anew, on another machine perhaps; its folder has to be the planned one."""
    overrides = [[*job.overrides, f"hydra.sweep.subdir={written(job.name)}"] for job in jobs]
    try:
        launcher.launch(overrides, 0)
    except Exception as error:  # the queue's, or of a job that was killed: what became of all jobs, their records know
        log.error("%s: %s: %s", type(launcher).__name__, type(error).__name__, error)
    return [outcome_of(job) for job in jobs]


def describe(plan: Plan, num_at_once: int) -> str:
    """What a dry run prints: a line a job, what was left out of some, and how long the rest will take."""
    width = max(len(job.name) for job in plan.jobs)
    lines = [f"{job.name:<{width}}  {state}" for job, state in zip(plan.jobs, plan.states, strict=True)]
    for key, number in plan.dropped.items():
        lines.append(f"{key} is left out of {number} combinations, which have no such key")
    if plan.num_equal:
        lines.append(f"{plan.num_equal} combinations are equal to another one, and not run twice")
    counts = Counter(plan.states)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines.append(f"{len(plan.jobs)} jobs in {os.path.relpath(plan.folder)}: {states}")
    if (num := num_groups(plan.jobs)) < len(plan.jobs):
        lines.append(f"they are trained as {num}: trainer.stack_seeds")
    if plan.pending:
        lines.append(f"{min(num_at_once, len(plan.pending))} at once; {_how_long(plan.seconds, num_at_once)}")
    return "\n".join(lines)


def _how_long(seconds: float | None, num_at_once: int) -> str:
    if seconds is None:
        return "how long they take can be told once one has finished"
    return f"about {duration(seconds / num_at_once)} left, by those that have finished"
