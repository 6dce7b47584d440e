"""``trainer.compile``: the model through ``torch.compile``, with one cache of compiled code for all jobs of a sweep."""

import os
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

MODES = ("default", "reduce-overhead", "max-autotune")
_GRAPHED = ("reduce-overhead", "max-autotune")  # they record CUDA graphs


def compile_mistake(trainer: dict[str, Any]) -> str | None:
    """What is wrong with ``trainer.compile`` here, in one line."""
    mode = trainer.get("compile")
    if mode is None:
        return None
    if mode not in MODES:
        return f"trainer.compile={mode}: use null, {', '.join(MODES[:-1])} or {MODES[-1]}"
    accumulates = trainer.get("accumulate_grad_batches") != 1 or trainer.get("on_oom") == "halve"
    if mode in _GRAPHED and accumulates:
        # pytorch/pytorch#96693 and #169545: gradients that wait may lie in memory that the next graph reuses.
        return (
            f"trainer.compile={mode} records CUDA graphs, which torch does not accumulate gradients through reliably. "
            "Use trainer.compile=default, or trainer.accumulate_grad_batches=1 and trainer.on_oom=fail"
        )
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        return f"trainer.compile={mode} needs a C++ compiler, and there is no g++ here. Install one, or leave it null"
    return None


def compiled(model: nn.Module, mode: str | None) -> list[pl.Callback]:
    """Has a model compile itself at its first batch, and again for each other shape of images.

    Torch keeps compiled code in a folder of the machine (``$TORCHINDUCTOR_CACHE_DIR``), named by its content and moved
    there whole: jobs share it while they run. It rounds differently, so the mode is part of a run's identity.

    Args:
        model: changed in place; its weights and their names stay.
        mode: of ``torch.compile``, or None.

    Returns:
        Callbacks that the trainer needs.
    """
    if mode is None:
        return []
    model.compile(mode=mode)
    return [GraphedSteps()] if mode in _GRAPHED else []


class GraphedSteps(pl.Callback):
    """Tells CUDA graphs that nobody needs what they returned for the batch before."""

    def on_train_batch_start(self, *_: Any) -> None:
        """A batch of training."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_batch_start(self, *_: Any) -> None:
        """A batch of validation."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_test_batch_start(self, *_: Any) -> None:
        """A batch of the test."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
