"""A trial of a search tells the other trials how it is doing, and ends when it has no prospects, or until it has some.

The trials of a search share a journal in the folder of the search, beside their own: whoever sees that folder takes
part, on other machines too.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from segsweep import journal
from segsweep.halving import UNTIL, SuccessiveHalving, has_reached
from segsweep.study import open_study

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


def pruning(folder: Path, trial: int | None) -> list[Pruning]:
    """The callback that prunes or pauses a run, if it is a trial of a search that has a pruner.

    Args:
        folder: of the run.
        trial: its number in the search beside which the folder lies; None: it is none.
    """
    file = folder.parent / journal.FILE
    about = journal.about(file) if trial is not None else None
    if trial is None or about is None or about["pruner"] is None:
        return []
    return [Pruning(file, trial, about["objectives"][0], about["pruner"])]


class Pruning(Checkpoint):
    """Reports a metric after each validation, and stops the run if the pruner says so.

    A ``Checkpoint`` in Lightning's sense, so that it comes after the checkpoint of the epoch: what is reported is never
    ahead of what a continued run starts from. The checkpoint has the score, too: after a kill between the two, the
    continued run reports it. Optuna's step is the number of epochs that are done, the resource that successive halving
    divides. Stages of the regime before the last one do not count: what they train is not what the metric measures.

    Args:
        file: the journal.
        number: of the trial.
        metric: that is searched for, e.g. ``val/miou``.
        pruner: ``_target_`` and arguments of one of Optuna's pruners, or of ``SuccessiveHalving``.

    Attributes:
        ends_as: status of the run: ``pruned`` if the pruner has ended it, ``paused`` if it may go on, else
            ``completed``.
    """

    def __init__(self, file: Path, number: int, metric: str, pruner: dict[str, Any]) -> None:
        self.file, self.number, self.metric, self.pruner = file, number, metric, pruner
        self.pauses = SuccessiveHalving.of(pruner) is not None
        self.ends_as = "completed"
        self._newest: tuple[int, float] | None = None  # epochs done, and the score after them

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs to know."""
        return {"newest": None if self._newest is None else list(self._newest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        newest = state_dict["newest"]
        self._newest = None if newest is None else (newest[0], newest[1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the study; a trial that it does not know, or knows to be over, is left alone."""
        self._study: optuna.Study | None = None
        self._trial_id = -1
        if trainer.is_global_zero:
            study = open_study(self.file, self.pruner)
            trials = study.get_trials(deepcopy=False)
            if self.number < len(trials) and not trials[self.number].state.is_finished():
                self._study, self._trial_id = study, trials[self.number]._trial_id
        self._tell(trainer, trainer.current_epoch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes down the score; Lightning keeps those of earlier epochs.

        Raises:
            ValueError: the metric was not logged.
        """
        if trainer.sanity_checking or not pl_module.is_last_stage:
            return
        if self.metric not in trainer.callback_metrics:
            raise ValueError(f"hydra.sweeper.objectives: {self.metric} was not logged. Choose a metric of this model")
        self._newest = (trainer.current_epoch + 1, float(trainer.callback_metrics[self.metric]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and asks the pruner."""
        self._tell(trainer, trainer.current_epoch + 1)

    def _tell(self, trainer: pl.Trainer, step: int) -> None:
        """Reports the score after so many epochs, if there is one, and ends the run if it is to end there."""
        if self._newest is None or self._newest[0] != step:
            return
        # A run that is over anyway is completed: its cost is paid.
        is_over = trainer.should_stop or step == trainer.max_epochs
        stops = self._study is not None and self._report(self._study, *self._newest) and not is_over
        if trainer.strategy.reduce_boolean_decision(stops, all=False):
            self.ends_as, trainer.should_stop = "paused" if self.pauses else "pruned", True

    def _report(self, study: optuna.Study, step: int, value: float) -> bool:
        """Whether the trial has to end here."""
        from optuna.exceptions import UpdateFinishedTrialError

        storage = study._storage
        with contextlib.suppress(UpdateFinishedTrialError):  # the search has given it up meanwhile
            # A continued run may repeat an epoch, whose value then is the same.
            if step not in storage.get_trial(self._trial_id).intermediate_values:
                storage.set_trial_intermediate_value(self._trial_id, step, value)
            trial = storage.get_trial(self._trial_id)
            if self.pauses:
                return has_reached(trial.user_attrs.get(UNTIL), trial.intermediate_values)
            return bool(study.pruner.prune(study, trial))
        return False
