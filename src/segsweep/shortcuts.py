"""What Lightning does in every step for features that a run does not use, left out.

It costs nothing to speak of beside a network, but more than all else around one that takes a millisecond. Where another
version of Lightning has other names, these have no effect.
"""

from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler

_STEP_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
_BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
)


def without_idle_hooks(callbacks: list[pl.Callback]) -> list[pl.Callback]:
    """Has Lightning pass over the hooks of a batch that a callback does not have: ten callbacks have six each."""
    for callback in callbacks:
        _drop_idle(callback, pl.Callback, _STEP_HOOKS + _BATCH_HOOKS)
    return callbacks


def shorten_steps(trainer: pl.Trainer, task: pl.LightningModule) -> None:
    """The same for the task, for gradients that are not clipped, and for the arguments of a step.

    Args:
        trainer: that has not begun.
        task: whose ``training_step`` takes ``batch`` and ``batch_idx``.
    """
    _drop_idle(task, pl.LightningModule, _STEP_HOOKS)
    if not trainer.gradient_clip_val:
        task.configure_gradient_clipping = None  # type: ignore[assignment, method-assign]
    trainer.fit_loop.epoch_loop._build_kwargs = _arguments  # type: ignore[method-assign]


def _drop_idle(hooked: Any, base: type, hooks: tuple[str, ...]) -> None:
    for hook in hooks:
        if getattr(type(hooked), hook) is getattr(base, hook):
            setattr(hooked, hook, None)  # Lightning calls what is callable


def _arguments(kwargs: Any, batch: Any, batch_idx: int) -> Any:
    """Lightning works out anew in each step which of them the step takes."""
    kwargs["batch"], kwargs["batch_idx"] = batch, batch_idx
    return kwargs


class Unprofiled(PassThroughProfiler):
    """Profiles nothing, in a tenth of the time that Lightning's own takes for it, 60 times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """One context for all."""
        return self._nothing
