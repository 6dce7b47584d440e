"""From the overrides of a sweep to its jobs: crossed, composed, checked, and held against what its folder holds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segsweep import initial
from segsweep.axes import axes_of, product
from segsweep.composer import Composer
from segsweep.config import is_silent
from segsweep.drafts import Draft, draft
from segsweep.inspection import JobConfig, Verdict
from segsweep.run import ConfigError
from segsweep.state import State, state_of
from segsweep.sweep import Job
from segsweep.sweep.job import folder_name
from segsweep.sweep.records import records

Inspect = Callable[[list[JobConfig]], list[Verdict]]


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        folder: of the sweep.
        jobs: all of them, finished ones included, in the order of the grid.
        states: of each job: ``done``, to ``continue`` (interrupted), to ``retry`` (failed, or its record is damaged),
            ``running`` elsewhere, new.
        dropped: overrides that some jobs have no key for, and how many.
        num_equal: jobs that became equal to another by that.
        seconds: estimated for what is left, one job after the other; None while nothing has finished.
    """

    folder: Path
    jobs: tuple[Job, ...]
    states: tuple[State, ...]
    dropped: dict[str, int]
    num_equal: int
    seconds: float | None

    @property
    def pending(self) -> list[Job]:
        """The jobs that are left to run."""
        return [job for job, state in zip(self.jobs, self.states, strict=True) if state != "done"]


def make_plan(
    folder: Path, overrides: Sequence[str], zipped: Sequence[Sequence[str]], composer: Composer, inspect: Inspect
) -> Plan:
    """Plans a grid.

    Args:
        folder: of the sweep; need not exist.
        overrides: of the task, in Hydra's grammar; the last one of a key counts.
        zipped: groups of keys whose values are taken together.
        composer: knows the config folder.
        inspect: checks composed jobs; called once, with all of them.

    Raises:
        ConfigError: all mistakes of all jobs, a line each.
    """
    axes = axes_of(overrides, composer.parse)
    varying = {axis.key for axis in axes if axis.varies}
    drafts = draft(axes, list(product(axes, zipped)), composer)
    verdicts = inspect([one.job for one in drafts.jobs])
    lines = dict.fromkeys([*drafts.lines, *(line for verdict in verdicts for line in verdict.lines)])
    if lines:
        raise ConfigError("\n".join(lines))
    _refuse_twins(drafts.jobs, verdicts)
    found = records(folder)
    jobs = _jobs(folder, drafts.jobs, verdicts, varying, found)
    states = tuple(
        state_of(job.folder, found.get(job.folder), {"fingerprint": job.fingerprint, "config": verdict.config})
        for job, verdict in zip(jobs, verdicts, strict=True)
    )
    left = [job for job, state in zip(jobs, states, strict=True) if state != "done"]
    return Plan(folder, jobs, states, drafts.dropped, drafts.num_equal, _estimate(left, found))


def _refuse_twins(drafts: Sequence[Draft], verdicts: Sequence[Verdict]) -> None:
    """Two jobs that are the same run would be trained once and counted twice."""
    first: dict[str, Draft] = {}
    for job, verdict in zip(drafts, verdicts, strict=True):
        twin = first.setdefault(verdict.fingerprint, job)
        if twin is job:
            continue
        ours, theirs = set(job.overrides.values()), set(twin.overrides.values())
        pair = " and ".join(f"'{' '.join(sorted(only))}'" for only in (theirs - ours, ours - theirs))
        keys = {text.partition("=")[0].lstrip("+~") for text in ours ^ theirs}
        silent = sorted(filter(is_silent, keys))
        why = f"{' and '.join(silent)} changes no result" if silent else "they compose to the same config"
        raise ConfigError(f"the jobs with {pair} differ in nothing that is read: {why}. Leave one of them out")


def _jobs(
    folder: Path,
    drafts: Sequence[Draft],
    verdicts: Sequence[Verdict],
    varying: set[str],
    found: Mapping[Path, Mapping[str, Any]],
) -> tuple[Job, ...]:
    """Gives each draft its folder: the one that holds the same run already, else one named by what is swept."""
    known = {record.get("fingerprint"): run for run, record in found.items()}
    jobs: list[Job] = []
    taken: set[Path] = set()
    for index, (one, verdict) in enumerate(zip(drafts, verdicts, strict=True)):
        swept = [initial.nameable(text) for key, text in sorted(one.overrides.items()) if key in varying]
        run = known.get(verdict.fingerprint) or folder / folder_name(swept or [str(index)], verdict.fingerprint)
        if run in taken:
            run = run.with_name(f"{run.name}_{verdict.fingerprint[:8]}")
        taken.add(run)
        overrides = tuple(one.overrides.values())
        config, choices = one.job.config, one.job.choices
        identity = (verdict.fingerprint, verdict.kind, verdict.config or {})
        jobs.append(Job(index, run, overrides, config, choices, *identity))
    return tuple(jobs)


def _estimate(left: Sequence[Job], found: Mapping[Path, Mapping[str, Any]]) -> float | None:
    """Seconds that jobs will take: the median of finished ones of the same kind, else of all."""
    finished = [record for record in found.values() if record.get("status") == "completed" and record.get("wall_s")]
    if not finished:
        return None
    by_kind: dict[str, list[float]] = {}
    for record in finished:
        by_kind.setdefault(record["fingerprint_without_seed"], []).append(record["wall_s"])
    overall = statistics.median(record["wall_s"] for record in finished)
    return float(sum(statistics.median(by_kind.get(job.kind, [overall])) for job in left))
