"""The trials of a search: asked for, run, told; and what becomes of those that a dead process has left."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import optuna
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from segsweep import journal
from segsweep.halving import UNTIL, SuccessiveHalving
from segsweep.run import FINISHED, ConfigError, close_run, is_running, read_record
from segsweep.search.paused import SAME_AS, Promotion, StudyWithPaused, is_paused
from segsweep.search.plan import Inspect, SearchPlan
from segsweep.search.proposal import make_job
from segsweep.search.samplers import make_sampler
from segsweep.search.settings import values_of
from segsweep.search.space import Dimension
from segsweep.study import open_study
from segsweep.sweep import Job, Outcome
from segsweep.table import write_row

log = logging.getLogger(__name__)

RUN, ERROR = "run", "error"  # attributes of trials in the journal
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

    Every trial that was asked for ends in exactly one state: complete, pruned or failed; what was interrupted or is
    paused stays running in the journal, and whoever continues the search runs it in the same folder with the same
    values. Paused trials that do not go on are pruned when no other one is left.

    Args:
        plan: of the search; its folder exists, and no other process has it.
        inspect: checks composed jobs.
    """

    def __init__(self, plan: SearchPlan, inspect: Inspect) -> None:
        self.plan, self.inspect = plan, inspect
        study = open_study(plan.file, plan.settings.get("pruner"), plan.about["directions"])
        self.study = StudyWithPaused(study.study_name, study._storage, pruner=study.pruner)
        if self.study.user_attrs.get(journal.ABOUT) != plan.about:
            self.study.set_user_attr(journal.ABOUT, plan.about)
        self.outcomes: list[Outcome] = []
        self.num_failures = 0  # in a row
        halving = SuccessiveHalving.of(plan.settings.get("pruner"))
        self._promotion = Promotion(halving, self.study, plan.about["epochs"]) if halving else None
        self._jobs: dict[int, Job] = {}  # by number of the trial
        self._running: dict[str, Trial] = {}  # fingerprint -> the trial that runs it, or is paused
        self._paused: set[int] = set()  # numbers of the trials
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
        left_behind = deque(self._left_behind())
        while True:
            while workers.free and not self.has_given_up:
                number = left_behind.popleft() if left_behind else self._next()
                if number is None:
                    break
                self._start(number, workers)
            if len(self._running) > len(self._paused):
                outcome = workers.outcome()
                self.outcomes.append(outcome)
                self._end(outcome)
            elif self.has_given_up or not workers.free:
                return
            else:
                self._prune_paused()
                return

    def _left_behind(self) -> Iterator[int]:
        """Trials that were begun and are not paused; takes up those that are."""
        for trial in self._all():
            if trial.state != TrialState.RUNNING:
                continue
            run = trial.user_attrs.get(RUN)
            record = (read_record(self.plan.folder / run["folder"]) if run else None) or {}
            if self._promotion and run and is_paused(trial) and record.get("status") == "paused":
                self._running[run["fingerprint"]] = Trial(self.study, trial._trial_id)
                self._paused.add(trial.number)
            else:
                yield trial.number

    def _next(self) -> int | None:
        """Number of the trial that gets a free place; None: there is none."""
        trials = self._all()
        new = len(trials) if len(trials) < self.plan.num_trials else None
        if self._promotion is None or (new is not None and self._promotion.halving.breadth_first):
            return new
        promoted = self._promotion.next(trials, self._paused)
        if promoted is None and new is None and len(self._running) == len(self._paused):
            promoted = self._promotion.last(trials, self._paused)
        return new if promoted is None else promoted

    def _prune_paused(self) -> None:
        """Ends the trials that will not go on."""
        if self._paused:
            log.info("%d paused trials are not among the best: pruned", len(self._paused))
        for number in sorted(self._paused):
            run = self._all()[number].user_attrs[RUN]
            folder = self.plan.folder / run["folder"]
            if close_run(folder, "pruned", None, {"fingerprint": run["fingerprint"]}, {}):
                write_row(folder, read_record(folder) or {})
            self._tell(run["fingerprint"], "pruned", {})
        self._paused.clear()

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _start(self, number: int, workers: Workers) -> None:
        """Starts a trial, or continues it if it was begun; one whose result is known already ends here."""
        if number in self._jobs:
            self._submit(self._jobs[number], number, workers)
            return
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
        elif job.fingerprint in self._running and number not in self._paused:
            self._twins.setdefault(job.fingerprint, []).append(trial)
        else:
            self._running[job.fingerprint] = trial
            self._submit(job, number, workers)

    def _submit(self, job: Job, number: int, workers: Workers) -> None:
        """Starts the job of a trial, or continues it."""
        self._jobs[number] = job
        goes_on = number in self._paused
        self._paused.discard(number)
        _wait_for(job)
        record = read_record(job.folder) or {}
        if record.get("status") in FINISHED:  # a process was killed before it could tell
            self._end(Outcome(job, record["status"]))
            return
        known = self._all()[number]
        if self._promotion and (goes_on or UNTIL not in known.user_attrs):
            self._running[job.fingerprint].set_user_attr(UNTIL, self._promotion.until(known))
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
        """Takes note of what became of a job."""
        fingerprint = outcome.job.fingerprint
        if outcome.status == "paused":
            self._paused.add(self._running[fingerprint].number)
            self.num_failures = 0
        elif outcome.status == "interrupted":  # the next command continues it, and its twins
            self._running.pop(fingerprint)
            self._twins.pop(fingerprint, None)
        else:
            self._tell(fingerprint, outcome.status, read_record(outcome.job.folder) or {}, outcome.error)

    def _tell(
        self, fingerprint: str, status: str, record: Mapping[str, Any], error: Mapping[str, Any] | None = None
    ) -> None:
        """Tells the study how a run has ended, for all trials that waited for it."""
        trial, twins = self._running.pop(fingerprint), self._twins.pop(fingerprint, [])
        values = values_of(record, self.plan.objectives)
        if status == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif status == "completed" and values is not None:
            self.study.tell(trial, values)
        else:
            missing = {"class": "nan", "message": f"has no finite {' or '.join(self.plan.objectives)}"}
            for each in (trial, *twins):
                self._fail(each, error or missing)
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
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    said = f"{states.count(TrialState.COMPLETE)} completed, {states.count(TrialState.PRUNED)} pruned"
    line = f"{len(states)} trials: {said}, {states.count(TrialState.FAIL)} failed"
    if num_paused := sum(map(is_paused, trials)):
        line += f", {num_paused} paused"
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
