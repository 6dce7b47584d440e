"""The trials of a search: asked for, run, told; and what becomes of those that a dead process has left."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from segsweep import journal
from segsweep.run import FINISHED, ConfigError, is_running, read_record
from segsweep.search.plan import Inspect, SearchPlan
from segsweep.search.proposal import make_job
from segsweep.search.samplers import make_sampler
from segsweep.search.settings import values_of
from segsweep.search.space import Dimension
from segsweep.study import open_study
from segsweep.sweep import Job, Outcome

log = logging.getLogger(__name__)

RUN, ERROR, SAME_AS = "run", "error", "same_as"  # attributes of trials in the journal
_LOOK_S = 0.5  # between looks at a run that another process still has


class Workers(Protocol):
    """Runs jobs side by side; ``sweep.pool.Pool`` does."""

    @property
    def free(self) -> int:
        """Jobs that could start now."""

    def submit(self, job: Job) -> None:
        """Starts a job."""

    def outcome(self) -> Outcome:
        """Waits until any job ends."""


class Trials:
    """Drives a study until it has its trials.

    Every trial that was asked for ends in exactly one state: complete, pruned or failed; what was interrupted stays
    running in the journal, and whoever continues the search runs it in the same folder with the same values.

    Args:
        plan: of the search; its folder exists, and no other process has it.
        inspect: checks composed jobs.
    """

    def __init__(self, plan: SearchPlan, inspect: Inspect) -> None:
        self.plan, self.inspect = plan, inspect
        self.study = open_study(plan.file, plan.settings.get("pruner"), plan.about["directions"])
        if self.study.user_attrs.get(journal.ABOUT) != plan.about:
            self.study.set_user_attr(journal.ABOUT, plan.about)
        self.outcomes: list[Outcome] = []
        self.num_failures = 0  # in a row
        self._running: dict[str, Trial] = {}  # fingerprint -> the trial that runs it
        self._twins: dict[str, list[Trial]] = {}  # fingerprint -> trials that wait for the same run
        self._finished = {
            trial.user_attrs[RUN]["fingerprint"]: trial
            for trial in self._all()
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and RUN in trial.user_attrs
        }

    @property
    def num_done(self) -> int:
        """Trials that are over."""
        return sum(trial.state.is_finished() for trial in self._all())

    @property
    def has_given_up(self) -> bool:
        """Too many trials in a row have failed."""
        most = self.plan.settings.get("max_consecutive_failures")
        return most is not None and self.num_failures >= most

    def run(self, workers: Workers) -> None:
        """Runs trials until there are enough; a new one is asked for as soon as a place is free."""
        left_behind = deque(trial.number for trial in self._all() if trial.state == TrialState.RUNNING)
        while True:
            while workers.free and not self.has_given_up:
                if left_behind:
                    self._start(left_behind.popleft(), workers)
                elif len(self._all()) < self.plan.num_trials:
                    self._start(len(self._all()), workers)
                else:
                    break
            if not self._running:
                return
            outcome = workers.outcome()
            self.outcomes.append(outcome)
            self._end(outcome)

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _start(self, number: int, workers: Workers) -> None:
        """Starts a trial, or continues it if it was begun; one whose result is known already ends here."""
        self.study.sampler = self._sampler(number)
        known = self._all()
        # A trial that was begun gets the values it had, and asks for those it had not yet asked for.
        trial = Trial(self.study, known[number]._trial_id) if number < len(known) else self.study.ask()
        _ = trial.relative_params  # now, with the sampler of the trial
        job = self._job(trial)
        if job is None:
            return
        if job.fingerprint in self._finished:
            self._tell_same(trial, self._finished[job.fingerprint])
        elif job.fingerprint in self._running:
            self._twins.setdefault(job.fingerprint, []).append(trial)
        else:
            self._running[job.fingerprint] = trial
            _wait_for(job)
            record = read_record(job.folder) or {}
            if record.get("status") in FINISHED:  # a process was killed before it could tell
                self._end(Outcome(job, record["status"]))
            else:
                workers.submit(job)

    def _ask(self, trial: Trial, dimension: Dimension) -> object:
        # Each with numbers of its own: whether others were asked before by a process that is dead makes no difference.
        self.study.sampler = self._sampler(trial.number, 1 + self.plan.proposals.space.dimensions.index(dimension))
        return suggest(trial, dimension)

    def _sampler(self, trial: int, draw: int = 0) -> BaseSampler:
        settings = self.plan.settings
        return make_sampler(settings["sampler"], self.plan.proposals.space, settings.get("seed", 0), trial, draw)

    def _job(self, trial: Trial) -> Job | None:
        """The job of a trial; None if its values do not go together, with which the trial has failed."""
        try:
            one = self.plan.proposals.compose(lambda dimension: self._ask(trial, dimension), trial.number)
            verdict = self.inspect([one.job])[0]
            lines = verdict.lines
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            lines = str(error).splitlines()
        if lines:
            self._fail(trial, {"class": "config", "message": "; ".join(lines)})
            return None
        job = make_job(one, verdict, self.plan.folder, trial.number, trial.params)
        if RUN not in trial.user_attrs:
            trial.set_user_attr(RUN, {"folder": job.name, "fingerprint": job.fingerprint})
        return job

    def _end(self, outcome: Outcome) -> None:
        """Tells the study what became of a job, for all trials that waited for it."""
        fingerprint = outcome.job.fingerprint
        trial, twins = self._running.pop(fingerprint), self._twins.pop(fingerprint, [])
        if outcome.status == "interrupted":
            return  # so do its twins: the next command continues them
        record = read_record(outcome.job.folder) or {}
        values = values_of(record, self.plan.objectives)
        if outcome.status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif outcome.status == "completed" and values is not None:
            self.study.tell(trial, values)
        else:
            missing = {"class": "nan", "message": f"has no finite {' or '.join(self.plan.objectives)}"}
            for each in (trial, *twins):
                self._fail(each, outcome.error or missing)
            return
        self.num_failures = 0
        finished = self._finished[fingerprint] = self._all()[trial.number]
        for twin in twins:
            self._tell_same(twin, finished)

    def _tell_same(self, trial: Trial, other: FrozenTrial) -> None:
        """Ends a trial with the result of another that is the same run."""
        trial.set_user_attr(SAME_AS, other.number)
        log.info("trial %d is the same run as trial %d", trial.number, other.number)
        if other.state == TrialState.PRUNED:
            for step, value in other.intermediate_values.items():
                trial.report(value, step)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, other.values)

    def _fail(self, trial: Trial, error: Mapping[str, Any]) -> None:
        self.num_failures += 1
        trial.set_user_attr(ERROR, dict(error))
        self.study.tell(trial, state=TrialState.FAIL)
        log.warning("trial %d failed: %s: %s", trial.number, error.get("class"), error.get("message"))


def suggest(trial: Trial, dimension: Dimension) -> object:
    """The trial's value in a dimension; the one it has, if it was asked before."""
    name = dimension.name
    if dimension.kind == "categorical":
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.kind == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def summary(study: optuna.Study) -> str:
    """How a search stands, in a line."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    said = f"{states.count(TrialState.COMPLETE)} completed, {states.count(TrialState.PRUNED)} pruned"
    line = f"{len(states)} trials: {said}, {states.count(TrialState.FAIL)} failed"
    if TrialState.COMPLETE not in states:
        return line
    best = study.best_trials[: 1 if len(study.directions) == 1 else 5]
    shown = "; ".join(
        f"trial {trial.number} with {', '.join(f'{value:.4g}' for value in trial.values)}" for trial in best
    )
    return f"{line}. Best: {shown}"


def _wait_for(job: Job) -> None:
    """Until no process has the run any more: those of a killed search end a moment after it."""
    is_told = False
    while is_running(job.folder):
        if not is_told:
            log.info("%s is still being run by another process: waiting for it", job.name)
        is_told = True
        time.sleep(_LOOK_S)
