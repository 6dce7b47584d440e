"""Which jobs of a sweep are trained as one (``trainer.stack_seeds``): those that differ in the seed alone."""

from collections.abc import Sequence
from dataclasses import replace

from segsweep.sweep.job import Job


def grouped(jobs: Sequence[Job], pending: Sequence[Job]) -> list[Job]:
    """The jobs that are left, each standing for its group.

    Groups are made of all jobs of the sweep, finished ones included, so that they are the same when it is continued.

    Args:
        jobs: all of the sweep, in its order.
        pending: those of them that are left to run.
    """
    left = {job.index for job in pending}
    groups = []
    for group in _groups(jobs):
        if mine := [job for job in group if job.index in left]:
            groups.append(replace(mine[0], others=tuple(mine[1:])) if len(group) > 1 else mine[0])
    return sorted(groups, key=lambda job: job.index)


def num_groups(jobs: Sequence[Job]) -> int:
    """How many processes the jobs of a sweep take, one after the other or side by side."""
    return len(_groups(jobs))


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    by_kind: dict[str, list[Job]] = {}
    for job in jobs:
        by_kind.setdefault(job.kind, []).append(job)
    return [
        list(alike[first : first + size])
        for alike in by_kind.values()
        for size in [_size(alike[0])]
        for first in range(0, len(alike), size)
    ]


def _size(job: Job) -> int:
    trainer = job.identity.get("trainer")
    return (trainer.get("stack_seeds") if isinstance(trainer, dict) else None) or 1
