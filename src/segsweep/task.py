"""The one LightningModule: it trains and scores any segmenter with any loss on any data."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segsweep.checkpoints import batches_within_epoch, count_in_pieces
from segsweep.curves import ScoreCounts
from segsweep.guard import UpdateGuard
from segsweep.losses import Divergence, by_class, count_batch, for_terms, warming_terms
from segsweep.means import TermMeans
from segsweep.metrics import Counts, summarise
from segsweep.models.blocks import nearest_to, resize_to
from segsweep.objectives import Loss
from segsweep.regime import Regime
from segsweep.rng import mix
from segsweep.sharing import gather, rank, world_size
from segsweep.staged import StagedTraining
from segsweep.tally import Confusion, ImageCounts
from segsweep.tiling import segment_by_tiles
from segsweep.types import Batch, DataSpec, SegmenterOutput


class Task(StagedTraining):
    """Trains and scores a segmenter; knows no concrete model, loss or dataset.

    Args:
        model: image (N, C, H, W) -> ``SegmenterOutput``.
        loss: (output, batch) -> terms, with the key ``total``.
        regime, optimizer, scheduler, spec, monitor: as in ``StagedTraining``.
        seed: of the run; the global random state restarts from (seed, epoch) at every epoch.

    Attributes:
        test_stage: prefix of the metrics of the next ``trainer.test``.
        score_counts: set, tests also count pixels by the probability of each class.
        test_scores: what the last test has counted so: (K, 2, 127), as ``curves.ScoreCounts`` returns it.
        val_confusion: (K, K) of the last validation, truth in rows.
        train_images_per_s: one value per epoch, validation excluded.
        is_validated: whether the running epoch has been; Lightning keeps the metrics of earlier ones.
        num_stacked: runs that are trained as one with this one, and share the time of its epochs.
    """

    num_stacked = 1

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
        super().__init__(model.to(memory_format=torch.channels_last), regime, optimizer, scheduler, spec, monitor, seed)
        self.loss = loss
        self.train_confusion = Confusion(spec.num_classes)
        self.eval_counts = ImageCounts(spec.num_classes, spec.ignore_index)
        self.test_stage = "test"
        self.score_counts: ScoreCounts | None = None
        self.test_scores: NDArray[np.int64] | None = None
        self.val_confusion: NDArray[np.integer] | None = None
        self.train_images_per_s: list[float] = []
        self.readout = regime.readout
        self.guard = UpdateGuard(self._name_of, looks_at_once=True)
        self._warming: list[Divergence] = []
        self._num_ranks = 1
        self._means = TermMeans()
        self.is_validated = False
        self._epoch_start = self._epoch_end = 0.0
        self._first_batch = 0  # of the epoch in which training begins
        self._unfinished: dict[str, Any] | None = None  # what that epoch has summed up before it
        self._metrics_before: dict[str, Tensor] = {}  # of the epochs before it

    def __setattr__(self, name: str, value: Any) -> None:
        """Torch looks whether a value is a parameter or a module, 2 us each, and Lightning sets 50 names a step."""
        if value is None or type(value) in (str, int, float, bool):
            values = self.__dict__
            if name in values:
                values[name] = value
                return
        super().__setattr__(name, value)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of standardised images."""
        output: SegmenterOutput = self.model(image)
        return output

    def on_train_start(self) -> None:
        """Takes up what Lightning does not: the metrics of earlier epochs, and the place within an epoch."""
        super().on_train_start()
        self.guard = UpdateGuard(self._name_of, looks_at_once=self.device.type == "cpu")
        self._warming, self._num_ranks = warming_terms(self.loss), world_size()
        self.trainer.callback_metrics.update(self._metrics_before)
        loader: Any = self.trainer.train_dataloader
        loader.start_at(self._first_batch)

    def _name_of(self, position: int) -> str:
        return str(self._data.store.splits["train"].items[position].name)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Returns to the state within an epoch that a checkpoint was written in."""
        if self._unfinished is not None:
            self._take_up(self._unfinished)
            self._unfinished = None
        super().on_train_batch_start(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an epoch has summed up so far, and the random state.

        Raises:
            NotFiniteError: an update was not finite; nothing is saved after it.
        """
        self.guard.read()
        super().on_save_checkpoint(checkpoint)
        metrics = self.trainer.callback_metrics
        checkpoint["callback_metrics"] = {name: value.detach().cpu() for name, value in metrics.items()}
        checkpoint["pieces"] = self._data.pieces
        if batches_within_epoch(checkpoint):
            checkpoint["unfinished"] = gather(self._progress())  # of each rank

    def _progress(self) -> dict[str, Any]:
        """What an epoch has summed up so far, and the random state: all on the CPU."""
        return {
            "sums": self._means.sums(),
            "confusion": self.train_confusion.counted(),
            "images": self._means.images,
            "norms": self.guard.norms,
            "is_validated": self.is_validated,
            "seconds": self._epoch_end - self._epoch_start,
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is taken up when training begins."""
        super().on_load_checkpoint(checkpoint)
        count_in_pieces(checkpoint, self._data.pieces)
        self._metrics_before = checkpoint.get("callback_metrics", {})
        self._first_batch = batches_within_epoch(checkpoint)
        self._unfinished = checkpoint["unfinished"][rank()] if "unfinished" in checkpoint else None

    def _take_up(self, unfinished: dict[str, Any]) -> None:
        self._means = TermMeans(unfinished["sums"], unfinished["images"])
        self.is_validated = unfinished["is_validated"]
        if unfinished["confusion"] is not None:
            self.train_confusion.take_up(unfinished["confusion"], self.device)
        self.guard.take_up(unfinished.get("norms"))
        self._epoch_start = time.perf_counter() - unfinished["seconds"]
        # Lightning counts once more where a validation was due and over.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step
        torch.set_rng_state(unfinished["rng"])
        if unfinished["device_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(unfinished["device_rng"], self.device)

    def on_train_epoch_start(self) -> None:
        """Restarts the random state from (seed, epoch), so that a continued run draws what it would have drawn."""
        others = (rank(),) if rank() else ()  # noise and dropout of ranks differ as those of the images of a batch do
        torch.manual_seed(mix(self.seed, "epoch", self.current_epoch, *others))
        self.train_confusion.reset()
        self.is_validated = False
        self._forget_terms("train")
        self._begin()
        self._epoch_start = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the loss, nothing else that the host has to wait for."""
        self.encoder_switch.keep_frozen()
        output, terms = self._learn(batch)
        data, num = self._data, len(batch.image)
        if self._warming and data.completes_batch(batch_idx):
            count_batch(self._warming)
        seen = {name: value.detach() for name, value in terms.items()}
        self.guard.see(seen, batch.index, self.current_epoch, self.global_step)
        self._means.add(seen, num)
        self.images_seen += num * self._num_ranks
        if output is not None:
            # Of a mixed batch an objective may segment the labelled images alone.
            self.train_confusion.update(output.logits, batch.mask[: len(output.logits)])
        total: Tensor = terms["total"]
        return total * data.weight(batch) if data.pieces > 1 else total

    def _learn(self, batch: Batch) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        if self._features is None:
            return self.objective(self.model, batch, self.loss)  # type: ignore[no-any-return]
        model: Any = self.model
        output = by_class(model.decode(self._features[batch.index], batch.image))
        return output, self.loss(output, batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keeps an update that is not finite from the weights."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # A fused optimizer divides by the scale itself, in its step.
        is_multiplied = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = scaler._get_scale_async() if scaler is not None and is_multiplied else 1.0
        self.guard.before_update(optimizer, self.current_epoch, self.global_step, scaler is not None, scale)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Notes the time: an epoch of training ends with its last step, before validation."""
        if self.trainer.is_last_batch and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._epoch_end = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means.

        Raises:
            NotFiniteError: one of the last updates was not finite.
        """
        self.guard.read()
        speed = self.num_stacked * sum(gather(self._means.images)) / max(self._epoch_end - self._epoch_start, 1e-9)
        self.train_images_per_s.append(speed)
        # A stage without logits has counted nothing.
        counts = self.train_confusion.compute()
        values = self._close("train", counts)
        values |= {"train/images_per_s": speed, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        if len(self.regime.stages) > 1:
            values["stage"] = self.stage_index
        norms = self.guard.take_norms()
        if not isinstance(self.trainer.strategy, FSDPStrategy):  # there each rank has a part of the gradient
            values |= {f"train/{name}": value for name, value in norms.items()}
        self._log(values)
        self.step_plateau(self.is_validated)

    def on_validation_epoch_start(self) -> None:
        """Starts counting.

        Raises:
            NotFiniteError: one of the last updates was not finite.
        """
        self.guard.read()
        # Training sums must not be lost: validation runs inside the training epoch.
        self._training = self._means
        self._forget_terms("val")
        self._begin()
        self.eval_counts.reset()
        self._fit_readout()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a batch at the native size of its masks."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the split."""
        counts = self.eval_counts.compute()
        self.val_confusion = counts.confusion.sum(axis=0)
        self._log(self._close("val", counts))
        self.is_validated = True
        self._means = self._training

    def on_test_epoch_start(self) -> None:
        """Starts counting."""
        self._begin()
        self.eval_counts.reset()
        self.test_scores = None
        if self.score_counts is not None:
            self.score_counts.reset()
        self._fit_readout()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores a batch at the native size of its masks."""
        logits = self._score(batch)
        if self.score_counts is not None and logits is not None:
            self.score_counts.update(logits, batch.mask)

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the split."""
        if self.score_counts is not None:
            self.test_scores = self.score_counts.compute()
        self._log(self._close(self.test_stage, self.eval_counts.compute()))

    def test_counts(self) -> Counts:
        """Counts of the last test, one set per image, in the order of the split."""
        counts: Counts = self.eval_counts.compute()
        return counts

    def tested(self) -> list[int]:
        """Positions of the images of the last test in their split: all of them, unless it was limited."""
        return self.eval_counts.positions

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
        """Has the readout look at the weights as they are now: on one rank, so that all have the same clusters."""
        if self.readout is None:
            return
        if rank() == 0:
            with self.trainer.precision_plugin.forward_context():
                self.readout.fit(self.model, self._data.train_as_is, self.spec, self.seed)
        self.readout.scores = gather(self.readout.scores)[0]

    def compare_readouts(self) -> dict[str, dict[str, float]]:
        """Scores on the tested images of the readout's probe and controls; none without a readout."""
        if self.readout is None:
            return {}
        test = self._data.test_images(self.tested())
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            return self.readout.compare(self.model, self._data.train_as_is, test, self.spec, self.seed)

    def _score(self, batch: Batch) -> Tensor | None:
        """The loss at the size of the image, as in training; the metrics at the native size of the mask.

        Returns:
            The logits that were scored; None for a batch without images.
        """
        if len(batch.index) == 0:  # there are more ranks than batches
            return None
        output = self._whole(self._view, batch.image)
        output = output._replace(logits=for_terms(output.logits))  # once: the counts want that layout, too
        logits = output.logits if self.readout is None else self.segment(batch.image).logits.float()
        seen = batch._replace(mask=nearest_to(batch.mask, batch.image))
        self._means.add(self.objective.score(output, seen, self.loss), len(batch.image))
        logits = resize_to(logits, batch.mask)
        self.eval_counts.update(logits, batch.mask, batch.index)
        return logits

    def _begin(self) -> None:
        self._means = TermMeans()

    def _forget_terms(self, stage: str) -> None:
        """Drops loss terms that Lightning would repeat in every epoch to come, those of an earlier stage included."""
        metrics = self.trainer.callback_metrics
        for name in [name for name in metrics if name.startswith(f"{stage}/loss/")]:
            del metrics[name]

    def _close(self, stage: str, counts: Counts | None) -> dict[str, float]:
        """Means of the loss terms over images, and the metrics: the host waits for the device here and nowhere else."""
        means = self._means.of_all_ranks().items()
        values = {f"{stage}/loss" if name == "total" else f"{stage}/loss/{name}": mean for name, mean in means}
        scores = {} if counts is None else summarise(counts, self.spec.class_names)
        if stage == "train":
            scores.pop("miou_image", None)  # training keeps only the pooled matrix
        return values | {f"{stage}/{name}": value for name, value in scores.items()}

    def _log(self, values: dict[str, float]) -> None:
        """Shows an epoch's values to callbacks and TensorBoard, as ``self.log_dict`` does in 1 to 4 ms a value."""
        trainer = self.trainer
        as_tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
        trainer.callback_metrics.update(as_tensors)
        if trainer.logger is None or trainer.sanity_checking:
            return
        trainer.logger.log_metrics({**values, "epoch": self.current_epoch}, self.logged_step)
