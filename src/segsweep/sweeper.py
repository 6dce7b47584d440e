"""The grid sweeper, Hydra's ``-m`` by default: plans all jobs, refuses mistakes at once, runs what is left."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from segsweep.check import inspect_jobs
from segsweep.command import stop
from segsweep.composer import Composer
from segsweep.launcher import LocalLauncher, finish
from segsweep.plan import Plan, make_plan
from segsweep.run import ConfigError, lock
from segsweep.sweep import Job, Outcome, SweepOptions
from segsweep.sweep.processes import call

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
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Outcome] | None:
        """Hydra's: runs the sweep.

        Args:
            arguments: overrides of the task.

        Returns:
            What became of each job that was left to run; None after a dry run.

        Raises:
            SystemExit: a job failed (3), or the sweep was interrupted.
        """
        options = sweep_options(self.config)
        folder = Path(self.config.hydra.sweep.dir)
        composer = Composer(list(self.config.hydra.overrides.hydra))
        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        try:
            plan = make_plan(folder, overrides, options.zip or (), composer, lambda jobs: call(inspect_jobs, jobs))
        except ConfigError as error:
            stop(str(error).splitlines())
        if options.dry_run:
            print(describe(plan, options))
            return None
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock(folder):
                return run(self.launcher, plan)
        except ConfigError as error:
            stop(str(error).splitlines())


def run(launcher: Launcher, plan: Plan) -> list[Outcome]:
    """Has a launcher run what is left of a plan; ours by jobs, others by overrides.

    Raises:
        SystemExit: a job failed.
    """
    jobs = plan.pending
    log.info("%s: %d jobs, %d done already", os.path.relpath(plan.folder), len(plan.jobs), len(plan.jobs) - len(jobs))
    if isinstance(launcher, LocalLauncher):
        outcomes = launcher.run(jobs, num_done=len(plan.jobs) - len(jobs))
    else:
        # Other launchers compose each job anew, on another machine perhaps; a job's folder has to be the planned one.
        launcher.launch([[*job.overrides, override("hydra.sweep.subdir", job.name)] for job in jobs], 0)
        outcomes = [outcome_of(job) for job in jobs]
    finish(plan.folder, outcomes)
    return outcomes


def describe(plan: Plan, jobs_at_once: int) -> str:
    """What a dry run prints: a line a job, what was left out, and how long it will take."""
    lines = [f"{job.name:<60} {state}" for job, state in zip(plan.jobs, plan.states, strict=True)]
    for key, num in plan.dropped.items():
        lines.append(f"{key}: left out of {num} combinations that have no such key")
    if plan.num_equal:
        lines.append(f"{plan.num_equal} combinations are equal to another without it, and run once")
    counts = Counter(plan.states)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines.append(f"{len(plan.jobs)} jobs in {os.path.relpath(plan.folder)}: {states}")
    if plan.pending:
        lines.append(f"{jobs_at_once} at once; {_duration(plan.seconds, jobs_at_once)}")
    return "\n".join(lines)


def _duration(seconds: float | None, jobs_at_once: int) -> str:
    if seconds is None:
        return "how long it takes can be told once a job has finished"
    return f"about {seconds / 60 / jobs_at_once:.0f} min left, by the jobs that have finished"


def sweep_options(config: DictConfig) -> SweepOptions:
    """The node ``sweep`` of a composed config."""
    node: dict[str, Any] = OmegaConf.to_container(config.sweep, resolve=True)  # type: ignore[assignment]
    node.pop("_target_")
    return SweepOptions(**node)
