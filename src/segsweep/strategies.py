"""How Lightning shares a run between the processes that ``ranks`` has started."""

from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, Strategy
from pytorch_lightning.utilities.types import STEP_OUTPUT


class SharedSteps(DDPStrategy):
    """Distributed data parallel: each rank computes the gradients of its part of the batch, all step by their mean.

    Running statistics are those of rank zero, which gives them to the others before every step, as torch does, and
    before every validation: so all score the same weights, those that checkpoints hold.
    """

    def __init__(self) -> None:
        # Unused parameters: a stage may train a part of the model, and a term that is off leaves a decoder aside. The
        # environment: inside a SLURM job Lightning would take the ranks for those of the job.
        super().__init__(find_unused_parameters=True, cluster_environment=LightningEnvironment())

    def setup(self, trainer: pl.Trainer) -> None:
        """Wraps the model."""
        super().setup(trainer)
        _stop_asking_about_signals(trainer)

    def on_validation_start(self) -> None:
        """Gives every rank the buffers of rank zero."""
        if self.lightning_module is not None:
            for buffer in self.lightning_module.buffers():
                dist.broadcast(buffer, 0)

    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Past the wrapper, which exchanges buffers in each forward pass: ranks may have unequal numbers of batches."""
        if self.lightning_module is None:
            raise RuntimeError("the strategy has no module to validate")
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)


class SharedWeights(FSDPStrategy):
    """Fully sharded data parallel: each rank keeps a part of every weight and of the optimizer's state.

    Nothing but a step of training or validation can use the model meanwhile, and those only on all ranks at once.
    """

    def __init__(self) -> None:
        super().__init__(cluster_environment=LightningEnvironment())

    def setup(self, trainer: pl.Trainer) -> None:
        """Wraps the model and divides its weights."""
        super().setup(trainer)
        _stop_asking_about_signals(trainer)


def strategy(name: str) -> str | Strategy:
    """What Lightning's Trainer takes for a value of ``trainer.strategy``."""
    if name == "ddp":
        return SharedSteps()
    return SharedWeights() if name == "fsdp" else name


def _stop_asking_about_signals(trainer: pl.Trainer) -> None:
    """Lightning has ranks ask each other in every step, for which the host waits; ours are ended from outside."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
