"""What is learnt from a batch: the interface that every stage of training goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from segsweep.types import Batch, DataSpec, SegmenterOutput


class Loss(Protocol):
    """What a run minimises; ``losses.WeightedSum`` is one."""

    def __call__(self, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
        """Terms, with the key ``total``."""
        ...


class Objective(nn.Module):
    """Turns a batch into terms to minimise; ``forward`` is one training step without the update.

    An objective may own modules beside the model (a decoder, a teacher). They are built in ``prepare``, trained and
    stored in checkpoints with the model, and left behind when the run is complete.

    Attributes:
        trains_logits: whether the model's logits get better by it; if not, learning-rate schedules that watch a metric
            watch the validation loss.
        takes_features: whether a training step may start from features that a frozen encoder has computed before.
        takes_teacher: whether ``init_from`` names a run to learn from, instead of one to begin as.
        prunes: whether it keeps weights at 0: then it hears of every batch and every update.
    """

    trains_logits = True
    takes_features = False
    takes_teacher = False
    prunes = False

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Builds what it needs beside the model, before any optimizer exists.

        Args:
            model: the segmenter.
            spec: facts of the data.
            earlier: objectives of the stages before, by the name of the stage.

        Raises:
            ValueError: the model or the stages before lack what it needs.
        """

    def enter(self, model: nn.Module) -> None:
        """Called once, when its stage begins; not when an interrupted stage is continued."""

    def advance(self, model: nn.Module, done: int, total: int) -> None:
        """Called before each batch of its stage, with the number of those before and of all; only if it ``prunes``."""

    def after_update(self, model: nn.Module) -> None:
        """Called after each optimisation step of its stage; only if it ``prunes``."""

    def kept(
        self, model: nn.Module, node: dict[str, Any], build: Callable[[dict[str, Any]], nn.Module]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """What is written of the model as the best weights, tested and used: the model itself unless it can be smaller.

        Args:
            model: the segmenter.
            node: its config.
            build: such a config -> a model.

        Returns:
            A model and its config.
        """
        return model, node

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        """One training step.

        Args:
            model: in training mode.
            batch: of the images that the stage asks for.
            loss: of the run.

        Returns:
            What the model made of ``batch.image``, or of the labelled ones at its beginning, or None if it made no
            logits of them; and the terms, scalar float32, with the key ``total``.
        """
        raise NotImplementedError

    def view(self, model: nn.Module, image: Tensor) -> SegmenterOutput:
        """What is scored and shown of images (N, C, H, W), in evaluation mode."""
        output: SegmenterOutput = model(image)
        return output

    def score(self, output: SegmenterOutput, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """The terms of an output of ``view``, as validation logs them."""
        return loss(output, batch)


def encoder_of(model: nn.Module, purpose: str) -> Any:
    """The model's encoder: image -> list of maps, fine to coarse, with ``out_channels``.

    Raises:
        ValueError: it has none.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "out_channels"):
        raise ValueError(
            f"{purpose} needs a model with an encoder, and {type(model).__name__} has none. Choose one such as "
            f"model=unet, reseg, conv_autoencoder or smp, or regime=supervised"
        )
    return encoder
