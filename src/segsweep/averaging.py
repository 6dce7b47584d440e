"""Weights averaged over the steps of training: what is validated, kept and tested in place of the last ones."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype


class Averaging(WeightAveraging):
    """Lightning's exponential moving average of all weights and statistics, in one operation for all of them.

    torch's ``AveragedModel.update_parameters`` asks the device in each step how often it has averaged, for which the
    host would wait; here it is asked once, when training starts.

    Args:
        decay: share of the average that a step keeps, 0..1; it looks back over about 1 / (1 - decay) steps.

    Reference:
        Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; with an exponential window as
        in Tarvainen and Valpola 2017, arXiv:1703.01780. The average begins with the weights after the first step of a
        stage, so that an encoder which the stage freezes is averaged with nothing else.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._stage: int | None = None
        self._is_begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the stage, which may be one that a continued run is in the middle of."""
        super().on_train_start(trainer, pl_module)
        self._stage = _stage(pl_module)
        self._is_begun = self._average_model is not None and bool(self._average_model.n_averaged)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Averages after each update; the first weights of another stage replace what there was."""
        average = self._average_model
        if average is None:
            return
        if self._stage != _stage(pl_module):
            self._stage = _stage(pl_module)
            self._is_begun = False
            average.n_averaged.zero_()
        if trainer.global_step > self._latest_update_step:
            self._latest_update_step = trainer.global_step
            self._take_in(average, pl_module)

    @torch.no_grad()
    def _take_in(self, average: AveragedModel, task: pl.LightningModule) -> None:
        averaged, latest = (
            [x.detach() for x in chain(module.parameters(), module.buffers())] for module in (average.module, task)
        )
        if self._is_begun:
            groups = _group_tensors_by_device_and_dtype([averaged, latest])  # type: ignore[list-item]
            for (kept, new), _ in groups.values():
                self._average(kept, new, average.n_averaged)
        else:
            torch._foreach_copy_(averaged, latest)
            self._is_begun = True
        average.n_averaged += 1

    def weights(self) -> dict[str, Any]:
        """The averaged state of the task, by the names that its own state has."""
        if self._average_model is None:
            return {}
        state: dict[str, Tensor] = self._average_model.module.state_dict()
        return state


def _stage(task: Any) -> int | None:
    return getattr(task, "stage_index", None)


def ema_mistake(trainer: dict[str, Any]) -> str | None:
    """What is wrong with ``trainer.ema``, in one line."""
    decay = trainer.get("ema")
    if decay is None:
        return None
    if not isinstance(decay, float) or not 0 < decay < 1:
        return f"trainer.ema={decay} is no share between 0 and 1, e.g. trainer.ema=0.99; null switches it off"
    if trainer.get("strategy") == "fsdp":
        return "trainer.ema: under trainer.strategy=fsdp no process has all weights to average. Use trainer=ddp"
    return None


def averaging(decay: float | None) -> list[Averaging]:
    """The callback; none without a decay."""
    return [] if decay is None else [Averaging(decay)]


def averaged_state(trainer: pl.Trainer) -> dict[str, Any]:
    """The state to keep: averaged where weights are averaged, else as it is. All ranks have to call it."""
    found = [callback for callback in trainer.callbacks if isinstance(callback, Averaging)]  # type: ignore[attr-defined]
    return (found[0].weights() if found else {}) or trainer.strategy.lightning_module_state_dict()
