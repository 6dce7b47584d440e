"""Paused trials: which of them goes on, and what samplers see of them."""

import copy
from collections.abc import Container, Sequence, Set

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from segsweep.halving import UNTIL, SuccessiveHalving, has_reached

SAME_AS = "same_as"  # attribute of a trial that was the same run as another


class Promotion:
    """Chooses the trial that goes on; follows from the journal alone, so a search that is continued chooses the same.

    Args:
        halving: the rule.
        study: of the search.
        epochs: of a whole run.
    """

    def __init__(self, halving: SuccessiveHalving, study: optuna.Study, epochs: int) -> None:
        self.halving, self.study, self.epochs = halving, study, epochs
        self._sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1

    def until(self, trial: FrozenTrial) -> int:
        """Epochs after which a trial that goes on stops next."""
        return self.halving.until(max(trial.intermediate_values, default=0), self.epochs)

    def next(self, trials: Sequence[FrozenTrial], paused: Set[int]) -> int | None:
        """Number of the paused trial that goes on; None: none has earned it."""
        return self.halving.promoted(self._scores(trials), paused, self.epochs)

    def last(self, trials: Sequence[FrozenTrial], paused: Set[int]) -> int | None:
        """The same once no run is left to compare with: a search has at least one completed trial."""
        if any(trial.state == TrialState.COMPLETE for trial in trials):
            return None
        return self.halving.last_promoted(self._scores(trials), paused, self.epochs)

    def _scores(self, trials: Sequence[FrozenTrial]) -> dict[int, dict[int, float]]:
        return {
            trial.number: {step: self._sign * value for step, value in trial.intermediate_values.items()}
            for trial in trials
            if trial.state != TrialState.FAIL and SAME_AS not in trial.user_attrs
        }


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial is where it has to wait; its run may be about to say so."""
    return trial.state == TrialState.RUNNING and has_reached(trial.user_attrs.get(UNTIL), trial.intermediate_values)


class StudyWithPaused(optuna.Study):
    """A study whose samplers learn from paused trials as from pruned ones, which they may become.

    In the journal they are running, of which samplers know no score. Samplers that do not learn from pruned trials are
    shown them as running: they keep away from the same point.
    """

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials as the journal has them."""
        return self._storage.get_all_trials(self._study_id, deepcopy=deepcopy, states=states)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """What samplers call."""
        trials = super()._get_trials(deepcopy, None, use_cache)
        if states is None or TrialState.PRUNED in states:
            trials = [_as_pruned(trial) if is_paused(trial) else trial for trial in trials]
        return [trial for trial in trials if states is None or trial.state in states]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    return shown
