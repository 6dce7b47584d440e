"""A trial of a search tells the other trials how it is doing, and ends when it has no prospects.

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
from segsweep.study import open_study

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


def pruning(folder: Path, trial: int | None) -> list[Pruning]:
    """The callback that prunes a run, if it is a trial of a search that has a pruner.

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
    ahead of what a continued run starts from. Optuna's step is the number of epochs that are done, the resource that
    successive halving divides. Stages of the regime before the last one do not count: what they train is not what the
    metric measures.

    Args:
        file: the journal.
        number: of the trial.
        metric: that is searched for, e.g. ``val/miou``.
        pruner: ``_target_`` and arguments of one of Optuna's pruners.

    Attributes:
        is_pruned: whether the pruner has ended the run.
    """

    def __init__(self, file: Path, number: int, metric: str, pruner: dict[str, Any]) -> None:
        self.file, self.number, self.metric, self.pruner = file, number, metric, pruner
        self.is_pruned = self.is_validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the study; a trial that it does not know, or knows to be over, is left alone."""
        self._study: optuna.Study | None = None
        self._trial_id = -1
        if not trainer.is_global_zero:
            return
        study = open_study(self.file, self.pruner)
        trials = study.get_trials(deepcopy=False)
        if self.number < len(trials) and not trials[self.number].state.is_finished():
            self._study, self._trial_id = study, trials[self.number]._trial_id

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that this epoch has a value of its own; Lightning keeps those of earlier epochs."""
        self.is_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and asks the pruner.

        Raises:
            ValueError: the metric was not logged.
        """
        if not self.is_validated or not pl_module.is_last_stage:
            return
        self.is_validated = False
        if self.metric not in trainer.callback_metrics:
            raise ValueError(f"hydra.sweeper.objectives: {self.metric} was not logged. Choose a metric of this model")
        value, step = float(trainer.callback_metrics[self.metric]), trainer.current_epoch + 1
        # A run that is over anyway is completed: its cost is paid.
        is_over = trainer.should_stop or step == trainer.max_epochs
        hopeless = self._study is not None and self._report(self._study, step, value) and not is_over
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            self.is_pruned = trainer.should_stop = True

    def _report(self, study: optuna.Study, step: int, value: float) -> bool:
        """Whether the pruner gives the trial up."""
        from optuna.exceptions import UpdateFinishedTrialError

        storage = study._storage
        with contextlib.suppress(UpdateFinishedTrialError):  # the search has given it up meanwhile
            # A continued run may repeat an epoch, whose value then is the same.
            if step not in storage.get_trial(self._trial_id).intermediate_values:
                storage.set_trial_intermediate_value(self._trial_id, step, value)
            return bool(study.pruner.prune(study, storage.get_trial(self._trial_id)))
        return False
