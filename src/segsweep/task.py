"""The one LightningModule: it trains and scores any segmenter with any loss on any data."""

import inspect
import logging
import time
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segsweep.features import frozen_features
from segsweep.freezing import EncoderSwitch
from segsweep.metrics import Confusion, Counts, ImageCounts, best_is, summarise
from segsweep.models.blocks import resize_to
from segsweep.objectives import Loss, Objective
from segsweep.regime import Regime, Stage
from segsweep.rng import mix
from segsweep.tiling import segment_by_tiles
from segsweep.types import Batch, DataSpec, SegmenterOutput

log = logging.getLogger(__name__)


class NotFiniteError(ArithmeticError):
    """The loss is NaN or infinite. ``kind`` is the error class in the record."""

    kind = "nan"


class Task(pl.LightningModule):
    """Trains and scores a segmenter; knows no concrete model, loss or dataset.

    Args:
        model: image (N, C, H, W) -> ``SegmenterOutput``.
        loss: (output, batch) -> terms, with the key ``total``.
        regime: the stages of training, each with its objective.
        optimizer: parameters -> optimizer; a new one for each stage.
        scheduler: optimizer, and as far as it takes them ``total_steps`` of the stage and ``mode`` -> scheduler.
            Stepped once per optimisation step; a ``ReduceLROnPlateau`` once per epoch, by ``monitor``.
        spec: facts of the data.
        monitor: metric that chooses the best epoch.
        seed: of the run; the global random state restarts from (seed, epoch) at every epoch.

    Attributes:
        stage_index: position of the present stage in the regime.
        test_stage: prefix of the metrics of the next ``trainer.test``.
        train_images_per_s: one value per epoch, validation excluded.
        images_seen: images of all training steps so far, unlabelled ones included.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        regime: Regime,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler | ReduceLROnPlateau],
        spec: DataSpec,
        monitor: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.regime, self.stage_index = regime, 0
        torch.manual_seed(mix(seed, "objectives"))
        prepare(regime, model, spec)
        self.objectives = nn.ModuleDict(regime.objectives)
        self.encoder_switch = EncoderSwitch(model)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.spec, self.monitor, self.seed = spec, monitor, seed
        self.train_confusion = Confusion(spec.num_classes, spec.ignore_index)
        self.eval_counts = ImageCounts(spec.num_classes, spec.ignore_index)
        self.test_stage = "test"
        self.train_images_per_s: list[float] = []
        self.images_seen = 0
        self.readout = regime.readout
        self._features: Tensor | None = None  # of a frozen encoder, for every training image
        self._sums: dict[str, Tensor] = {}
        self._images = 0
        self._epoch_start = self._epoch_end = 0.0

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of standardised images."""
        output: SegmenterOutput = self.model(image)
        return output

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return list(self.regime.stages.values())[self.stage_index]

    @property
    def objective(self) -> Objective:
        """What the present stage learns; in a test, what the last one has learnt."""
        return self.stage.objective

    @property
    def is_last_stage(self) -> bool:
        """Whether no stage follows: only then do epochs compete for the best one."""
        return self.stage_index == len(self.regime.stages) - 1

    def configure_optimizers(self) -> Any:
        """Builds the optimizer of the present stage and its schedule over all steps of the stage."""
        total_steps = self._stage_steps()
        learnt = (parameter for parameter in self.objective.parameters() if parameter.requires_grad)
        optimizer = self.make_optimizer([*self.model.parameters(), *learnt])
        monitor = self.monitor if self.objective.trains_logits else "val/loss"
        offered = {"total_steps": total_steps, "mode": best_is(monitor)}
        taken = inspect.signature(self.make_scheduler).parameters
        scheduler = self.make_scheduler(optimizer, **{k: v for k, v in offered.items() if k in taken})
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        interval = {"interval": "epoch", "monitor": monitor} if plateau else {"interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **interval}}

    def _stage_steps(self) -> int:
        """Optimisation steps of the present stage."""
        all_steps = int(self.trainer.estimated_stepping_batches)  # has Lightning count the batches, too
        if len(self.regime.stages) == 1:
            return all_steps
        first, end = self._data.stage_bounds()[self.stage_index]
        accumulated = self.trainer.accumulate_grad_batches
        return max(1, -(-int(end) // accumulated) - int(first) // accumulated)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes the stage, so that a continued run builds the optimizer that the checkpoint is of."""
        checkpoint["stage"], checkpoint["images_seen"] = self.stage_index, self.images_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Returns to the stage of the checkpoint."""
        self.stage_index, self.images_seen = checkpoint["stage"], checkpoint["images_seen"]

    def on_train_start(self) -> None:
        """Begins the first stage, or takes up the one that was interrupted."""
        if self.global_step == 0:
            self.objective.enter(self.model)
        self._take_up_stage()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Moves to the next stage when its first batch has come."""
        index = self._data.stage_index(self.current_epoch, batch_idx)
        if index != self.stage_index:
            self.stage_index = index
            self.objective.enter(self.model)
            self._renew_optimizer()
            self._take_up_stage()
        if self.stage.encoder == "thawed":
            first, end = self._data.stage_bounds()[self.stage_index]
            done = self.current_epoch * self.trainer.num_training_batches + batch_idx - first
            self.encoder_switch.thaw(2 * (done + 1) / (end - first))

    def _renew_optimizer(self) -> None:
        """A stage starts with an optimizer that remembers nothing, at the start of its own schedule."""
        built = self.configure_optimizers()
        self.trainer.strategy.optimizers = [built["optimizer"]]
        config = self.trainer.lr_scheduler_configs[0]
        config.scheduler = built["lr_scheduler"]["scheduler"]
        config.monitor = built["lr_scheduler"].get("monitor")

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

    def on_train_epoch_start(self) -> None:
        """Restarts the random state from (seed, epoch), so that a continued run draws what it would have drawn."""
        torch.manual_seed(mix(self.seed, "epoch", self.current_epoch))
        self.train_confusion.reset()
        self._forget_terms("train")
        self._begin()
        self._epoch_start = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the loss, nothing else that the host has to wait for."""
        self.encoder_switch.keep_frozen()
        if self._features is None:
            output, terms = self.objective(self.model, batch, self.loss)
        else:
            model: Any = self.model
            output = model.decode(self._features[batch.index], batch.image)
            terms = self.loss(output, batch)
        self._refuse_nan(terms, batch)
        self._add(terms, batch)
        self.images_seen += len(batch.image)
        if output is not None:
            # Of a mixed batch an objective may segment the labelled images alone.
            self.train_confusion.update(output.logits.detach(), batch.mask[: len(output.logits)])
        total: Tensor = terms["total"]
        return total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Notes the time: an epoch of training ends with its last step, before validation."""
        if self.trainer.is_last_batch and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._epoch_end = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means."""
        speed = self._images / max(self._epoch_end - self._epoch_start, 1e-9)
        self.train_images_per_s.append(speed)
        # A stage without logits has counted nothing.
        counts = self.train_confusion.compute() if self.train_confusion.update_called else None
        values = self._close("train", counts)
        values |= {"train/images_per_s": speed, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        if len(self.regime.stages) > 1:
            values["stage"] = self.stage_index
        self._log(values)

    def on_validation_epoch_start(self) -> None:
        """Starts counting."""
        # Training sums must not be lost: validation runs inside the training epoch.
        self._training = (self._sums, self._images)
        self._forget_terms("val")
        self._begin()
        self.eval_counts.reset()
        self._fit_readout()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a batch at the native size of its masks."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the split."""
        self._log(self._close("val", self.eval_counts.compute()))
        self._sums, self._images = self._training

    def on_test_epoch_start(self) -> None:
        """Starts counting."""
        self._begin()
        self.eval_counts.reset()
        self._fit_readout()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a batch at the native size of its masks."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the split."""
        self._log(self._close(self.test_stage, self.eval_counts.compute()))

    def test_counts(self) -> Counts:
        """Counts of the last test, one set per image, in the order of the split."""
        counts: Counts = self.eval_counts.compute()
        return counts

    def tested(self) -> list[int]:
        """Positions of the images of the last test in their split: all of them, unless it was limited."""
        return sorted(torch.cat(list(self.eval_counts.indices)).tolist())

    def segment(self, image: Tensor) -> SegmenterOutput:
        """Segments whole images (N, C, H, W): in one piece, or by overlapping tiles if the data says so."""
        return self._whole(self._view if self.readout is None else self._read_out, image)

    def _view(self, image: Tensor) -> SegmenterOutput:
        return self.objective.view(self.model, image)

    def _read_out(self, image: Tensor) -> SegmenterOutput:
        """Class scores by the readout in place of the model's logits."""
        readout: Any = self.readout
        return self._view(image)._replace(logits=readout(self.model, image))

    def _whole(self, view: Callable[[Tensor], SegmenterOutput], image: Tensor) -> SegmenterOutput:
        if self.spec.tile is None:
            return view(image)
        return segment_by_tiles(view, image, self.spec.tile, self.spec.tile_overlap)

    def _fit_readout(self) -> None:
        """Has the readout look at the weights as they are now."""
        if self.readout is not None:
            with self.trainer.precision_plugin.forward_context():
                self.readout.fit(self.model, self._data.train_as_is, self.spec, self.seed)

    def compare_readouts(self) -> dict[str, dict[str, float]]:
        """Scores on the tested images of the readout's probe and controls; none without a readout."""
        if self.readout is None:
            return {}
        test = self._data.test_images(self.tested())
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            return self.readout.compare(self.model, self._data.train_as_is, test, self.spec, self.seed)

    def _score(self, batch: Batch) -> None:
        """The loss at the size of the image, as in training; the metrics at the native size of the mask."""
        output = self._whole(self._view, batch.image)
        logits = output.logits if self.readout is None else self.segment(batch.image).logits
        mask = F.interpolate(batch.mask[:, None].float(), batch.image.shape[-2:], mode="nearest")[:, 0].long()
        self._add(self.objective.score(output, batch._replace(mask=mask), self.loss), batch)
        self.eval_counts.update(resize_to(logits.float(), batch.mask), batch.mask, batch.index)

    def _refuse_nan(self, terms: dict[str, Tensor], batch: Batch) -> None:
        """Raises before a loss that is not finite reaches the weights.

        On an accelerator the look would make the host wait at every step, so there ``_close`` looks once an epoch,
        before any checkpoint is written.
        """
        if self.device.type == "cpu" and not torch.isfinite(terms["total"]):
            bad = {name: float(value.detach()) for name, value in terms.items()}
            raise NotFiniteError(
                f"the loss is {bad} at step {self.global_step}, epoch {self.current_epoch}, training images "
                f"{batch.index.tolist()}. Lower optimizer.lr, or set trainer.gradient_clip_val=1"
            )

    def _begin(self) -> None:
        self._sums, self._images = {}, 0

    def _forget_terms(self, stage: str) -> None:
        """Drops loss terms that Lightning would repeat in every epoch to come, those of an earlier stage included."""
        metrics = self.trainer.callback_metrics
        for name in [name for name in metrics if name.startswith(f"{stage}/loss/")]:
            del metrics[name]

    def _add(self, terms: dict[str, Tensor], batch: Batch) -> None:
        num = len(batch.image)
        self._images += num
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * num

    def _close(self, stage: str, counts: Counts | None) -> dict[str, float]:
        """Means of the loss terms over images, and the metrics: the host waits for the device here and nowhere else."""
        values = {}
        for name, total in self._sums.items():
            key = f"{stage}/loss" if name == "total" else f"{stage}/loss/{name}"
            values[key] = float(total) / self._images
        if stage == "train" and not isfinite(values.get("train/loss", 0.0)):
            raise NotFiniteError(
                f"the loss of epoch {self.current_epoch} is not finite. Lower optimizer.lr, or set "
                f"trainer.gradient_clip_val=1"
            )
        scores = {} if counts is None else summarise(counts, self.spec.class_names)
        if stage == "train":
            scores.pop("miou_image", None)  # training keeps only the pooled matrix
        return values | {f"{stage}/{name}": value for name, value in scores.items()}

    def _log(self, values: dict[str, float]) -> None:
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)


def prepare(regime: Regime, model: nn.Module, spec: DataSpec) -> None:
    """Has every objective of a regime build what it needs beside the model.

    Raises:
        ValueError: the model, or an earlier stage, lacks what a stage needs.
    """
    earlier: dict[str, Objective] = {}
    for name, objective in regime.objectives.items():
        objective.prepare(model, spec, dict(earlier))
        earlier[name] = objective
