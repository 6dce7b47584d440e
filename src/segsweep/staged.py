"""The part of a LightningModule that moves a training from one stage of its regime to the next."""

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segsweep.features import frozen_features
from segsweep.freezing import EncoderSwitch
from segsweep.metrics import best_is
from segsweep.objectives import Objective
from segsweep.regime import Regime, Stage
from segsweep.rng import mix
from segsweep.types import Batch, DataSpec

log = logging.getLogger(__name__)


class StagedTraining(pl.LightningModule):
    """Owns the model and the regime; gives each stage its objective, its optimizer and its frozen encoder.

    Args:
        model: image (N, C, H, W) -> ``SegmenterOutput``.
        regime: the stages of training, each with its objective.
        optimizer: parameters -> optimizer; a new one for each stage.
        scheduler: optimizer, and as far as it takes them ``total_steps`` of the stage and ``mode`` -> scheduler.
            Stepped once per optimisation step; a ``ReduceLROnPlateau`` once per epoch, by ``monitor``.
        spec: facts of the data.
        monitor: metric that chooses the best epoch.
        seed: of the run.

    Attributes:
        stage_index: position of the present stage in the regime.
        images_seen: images of all training steps so far, unlabelled ones included.
    """

    def __init__(
        self,
        model: nn.Module,
        regime: Regime,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler | ReduceLROnPlateau],
        spec: DataSpec,
        monitor: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.regime, self.stage_index, self.images_seen = regime, 0, 0
        self._stages = list(regime.stages.values())
        torch.manual_seed(mix(seed, "objectives"))
        prepare(regime, model, spec)
        self.objectives = nn.ModuleDict(regime.objectives)
        self.encoder_switch = EncoderSwitch(model)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.spec, self.monitor, self.seed = spec, monitor, seed
        self._features: Tensor | None = None  # of a frozen encoder, for every training image
        self._plateau: tuple[ReduceLROnPlateau, str] | None = None  # and the metric that it watches
        self._plateau_state: dict[str, Any] | None = None  # of the checkpoint that is continued

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Batches are made where they are needed; Lightning looks in each step who might move them."""
        return batch

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        return batch

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self._stages[self.stage_index]

    @property
    def objective(self) -> Objective:
        """What the present stage learns; in a test, what the last one has learnt."""
        return self.stage.objective

    @property
    def is_last_stage(self) -> bool:
        """Whether no stage follows: only then do epochs compete for the best one."""
        return self.stage_index == len(self.regime.stages) - 1

    @property
    def logged_step(self) -> int:
        """Where TensorBoard shows what is found out now: at the last step of training, counted from 0; a test after it.

        As Lightning counts: of a step whose gradients are still gathered, a validation in between sees the number.
        """
        trainer = self.trainer
        if trainer.state.fn != TrainerFn.FITTING:
            return self.global_step
        is_gathering = trainer.validating and trainer.fit_loop.epoch_loop._should_accumulate()
        return self.global_step - (not is_gathering)

    def configure_optimizers(self) -> Any:
        """Builds the optimizer of the present stage and its schedule over all steps of the stage."""
        total_steps = self._stage_steps()
        learnt = (parameter for parameter in self.objective.parameters() if parameter.requires_grad)
        optimizer = self.make_optimizer([*self.model.parameters(), *learnt])
        if self.objective.prunes:
            # Not a hook of Lightning: nobody, not even another callback, sees the weights in between.
            optimizer.register_step_post_hook(lambda *_: self.objective.after_update(self.model))
        monitor = self.monitor if self.objective.trains_logits else "val/loss"
        offered = {"total_steps": total_steps, "mode": best_is(monitor)}
        taken = inspect.signature(self.make_scheduler).parameters
        scheduler = self.make_scheduler(optimizer, **{k: v for k, v in offered.items() if k in taken})
        self._plateau = None
        if not isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        # Stepped here and not by Lightning, which does so after it has written the checkpoint: a continued run would
        # never see the last step.
        self._plateau = (scheduler, monitor)
        if self._plateau_state is not None:
            scheduler.load_state_dict(self._plateau_state)
            self._plateau_state = None
        return {"optimizer": optimizer}

    def step_plateau(self, is_validated: bool) -> None:
        """Shows a ``ReduceLROnPlateau`` the metric of an epoch, if the epoch was validated."""
        if self._plateau is not None and is_validated:
            scheduler, monitor = self._plateau
            value = self.trainer.callback_metrics.get(monitor)
            if value is not None:  # a metric that does not exist is told about where the best epoch is chosen
                scheduler.step(float(value))

    def _stage_steps(self) -> int:
        """Optimisation steps of the present stage."""
        all_steps = int(self.trainer.estimated_stepping_batches)  # has Lightning count the batches, too
        if len(self.regime.stages) == 1:
            return all_steps
        first, end = self._data.stage_bounds()[self.stage_index]
        return max(1, self._steps_until(end) - self._steps_until(first))

    def _steps_until(self, batch: int) -> int:
        """Optimisation steps of the first batches; an epoch ends with a step, however many batches it has gathered."""
        epochs, rest = divmod(batch, int(self.trainer.num_training_batches))
        accumulated = self.trainer.accumulate_grad_batches
        return epochs * -(-int(self.trainer.num_training_batches) // accumulated) + rest // accumulated

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes the stage, so that a continued run builds the optimizer that the checkpoint is of."""
        checkpoint["stage"], checkpoint["images_seen"] = self.stage_index, self.images_seen
        checkpoint["plateau"] = None if self._plateau is None else self._plateau[0].state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Returns to the stage of the checkpoint."""
        self.stage_index, self.images_seen = checkpoint["stage"], checkpoint["images_seen"]
        self._plateau_state = checkpoint["plateau"]

    def on_train_start(self) -> None:
        """Begins the first stage, or takes up the one that was interrupted.

        Raises:
            ValueError: there are fewer batches than stages.
        """
        per_epoch, total = int(self.trainer.num_training_batches), self._data.num_planned_batches()
        if total < len(self.regime.stages):
            raise ValueError(
                f"regime has {len(self.regime.stages)} stages, and training {total} batches, {per_epoch} an epoch. "
                f"Raise trainer.max_epochs, or limit batches less"
            )
        if self.global_step == 0:
            self.objective.enter(self.model)
        self._take_up_stage()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Moves to the next stage when its first batch has come."""
        index = self._data.stage_index(self.current_epoch, batch_idx) if len(self._stages) > 1 else 0
        if index != self.stage_index:
            self.stage_index = index
            self.objective.enter(self.model)
            self._renew_optimizer()
            self._take_up_stage()
        if self.stage.encoder == "thawed" or self.objective.prunes:
            first, end = self._data.stage_bounds()[self.stage_index]
            done = self.current_epoch * self.trainer.num_training_batches + batch_idx - first
            pieces = self._data.pieces
            if self.stage.encoder == "thawed":
                self.encoder_switch.thaw(2 * (done // pieces + 1) / ((end - first) // pieces))
            if self.objective.prunes and done % pieces == 0:
                self.objective.advance(self.model, done // pieces, (end - first) // pieces)

    def _renew_optimizer(self) -> None:
        """A stage starts with an optimizer that remembers nothing, at the start of its own schedule."""
        self.zero_grad(set_to_none=True)  # batches that wait to be accumulated belong to the stage before
        built = self.configure_optimizers()
        self.trainer.strategy.optimizers = [built["optimizer"]]
        if "lr_scheduler" in built:
            self.trainer.lr_scheduler_configs[0].scheduler = built["lr_scheduler"]["scheduler"]

    def _take_up_stage(self) -> None:
        """Freezes what the stage freezes; computes once what a frozen encoder makes of images that never change."""
        self.encoder_switch.set(self.stage.encoder)
        if len(self.regime.stages) > 1:
            first, end = self._data.stage_bounds()[self.stage_index]
            name = list(self.regime.stages)[self.stage_index]
            log.info(
                "stage %d of %d: %s, batches %d to %d, images: %s, encoder: %s",
                *(self.stage_index + 1, len(self.regime.stages), name, first + 1, end),
                *(self.stage.images, self.stage.encoder),
            )
        self._features = None
        encoder: Any = getattr(self.model, "encoder", None)
        is_frozen = self.stage.encoder == "frozen" or getattr(encoder, "is_frozen", False)
        if not is_frozen or not self.objective.takes_features or not hasattr(self.model, "decode"):
            return
        batches = self._data.still_train_batches()
        if batches is not None:
            with self.trainer.precision_plugin.forward_context():
                self._features = frozen_features(encoder, batches, len(batches.split.items))


def prepare(regime: Regime, model: nn.Module, spec: DataSpec) -> None:
    """Has every objective of a regime build what it needs beside the model.

    Raises:
        ValueError: the model, or an earlier stage, lacks what a stage needs.
    """
    earlier: dict[str, Objective] = {}
    for name, objective in regime.objectives.items():
        objective.prepare(model, spec, dict(earlier))
        earlier[name] = objective
    if regime.readout is not None:
        regime.readout.check(model, spec)
