"""Runs the trials of a search with launchers that know nothing of pools: as many at a time as are asked for."""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from segsweep.hints import written
from segsweep.sweep import Job, Outcome
from segsweep.sweep.ending import outcome_of

log = logging.getLogger(__name__)


class Launches(Protocol):
    """Hydra's launchers, for SLURM and the like."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Runs jobs and returns when all have ended."""


class Batches:
    """Workers that start together and end together.

    Args:
        launcher: of Hydra's kind.
        size: jobs at once.
    """

    def __init__(self, launcher: Launches, size: int) -> None:
        self.launcher, self.size = launcher, size
        self._collected: list[Job] = []
        self._ended: deque[Outcome] = deque()

    @property
    def free(self) -> int:
        """Jobs that the next batch still takes."""
        return 0 if self._ended else self.size - len(self._collected)

    def submit(self, job: Job) -> None:
        """Puts a job into the next batch."""
        self._collected.append(job)

    def outcome(self) -> Outcome:
        """The next result; runs the batch if there is none. A launcher that raises ends no more than its batch."""
        if not self._ended:
            jobs, self._collected = self._collected, []
            # They compose each job anew, on another machine perhaps; its folder has to be the planned one.
            overrides = [[*job.overrides, f"hydra.sweep.subdir={written(job.name)}"] for job in jobs]
            try:
                self.launcher.launch(overrides, jobs[0].index)
            except Exception as error:  # one job that was killed; what became of all, their records know
                log.error("%s: %s: %s", type(self.launcher).__name__, type(error).__name__, error)
            self._ended.extend(map(outcome_of, jobs))
        return self._ended.popleft()
