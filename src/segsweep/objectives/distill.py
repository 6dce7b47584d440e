"""Learns from a trained model: what it thinks of every pixel, beside what the labels say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from segsweep.losses import by_class
from segsweep.objectives.objective import Loss, Objective
from segsweep.types import Batch, SegmenterOutput


class Distill(Objective):
    """The run's loss on labelled images, and on all images agreement with a teacher: L = (1 - a) L_own + a T^2 KL.

    The teacher sees the very images that the student sees, augmentation included. It is not trained, not stored in
    checkpoints, and left behind when the run is complete.

    Args:
        weight: a, of the divergence of the student's class probabilities from the teacher's, in nats, mean over all
            pixels; 0 is the control that learns from labels alone, 1 needs no label.
        temperature: T, by which logits are divided in the divergence: higher shows more of how classes resemble each
            other.

    Reference:
        Hinton et al. 2015, arXiv:1503.02531; images shared with the teacher as in Beyer et al. 2022, arXiv:2106.05237.
    """

    takes_teacher = True

    def __init__(self, weight: Annotated[float, Ge(0), Le(1)], temperature: Annotated[float, Gt(0)]) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self._teacher: tuple[nn.Module, ...] = ()  # in a tuple: neither trained nor part of checkpoints
        self._order: list[int] = []

    def learn_from(self, teacher: nn.Module, order: Sequence[int]) -> None:
        """Takes a teacher.

        Args:
            teacher: image (N, C, H, W) -> ``SegmenterOutput``; stays in evaluation mode.
            order: for each class here its number there.
        """
        self._teacher = (teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last),)
        self._order = list(order)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step. Labelled and unlabelled images pass through the network apart from each other."""
        labelled, unlabelled = batch.divide()
        output = by_class(model(labelled.image))
        terms = loss(output, labelled)
        summed = self.divergence(output.logits, labelled.image) * len(labelled.image)
        if unlabelled is not None:
            own = model(unlabelled.image).logits
            summed = summed + self.divergence(own, unlabelled.image) * len(unlabelled.image)
        divergence = summed / len(batch.image)
        total = (1 - self.weight) * terms["total"] + self.weight * self.temperature**2 * divergence
        return output, {**terms, "total": total, "distillation": divergence}

    def divergence(self, logits: Tensor, image: Tensor) -> Tensor:
        """KL(teacher || student) at the temperature, in nats, mean over pixels: a scalar, float32.

        Shape:
            logits (N, K, H, W) of the student, image (N, C, H, W).

        Raises:
            ValueError: nobody has given it a teacher.
        """
        if not self._teacher:
            raise ValueError("distillation has no teacher: give the folder of its run, init_from=RUN")
        (teacher,) = self._teacher
        if next(teacher.parameters()).device != image.device:
            teacher.to(image.device)
        with torch.no_grad():
            theirs = teacher(image).logits.float()[:, self._order]
        student, target = ((x / self.temperature).log_softmax(dim=1) for x in (logits.float(), theirs))
        return F.kl_div(student, target, reduction="none", log_target=True).sum(dim=1).mean()
