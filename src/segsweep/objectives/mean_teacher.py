"""Learns from its own labels: a slow copy of the model labels the images that have none."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from segsweep.losses import by_class
from segsweep.objectives.objective import Loss, Objective
from segsweep.types import Batch, DataSpec, SegmenterOutput

_BOX_AREA = 0.5  # share of the image that comes from the neighbour (French et al. 2020)


class MeanTeacher(Objective):
    """Segmentation of labelled images, and agreement with a teacher on unlabelled ones.

    The teacher is an exponential average of the model (the student). It labels each unlabelled image as it is; the
    student sees it with a rectangle of another one pasted in, and is to give the labels of the parts. Pixels of which
    the teacher is not sure are left out, but counted: as long as it is sure of few, its agreement weighs little, so no
    ramp is needed. Labelled images are learnt from as in supervised training.

    Scored, shown and saved is the student: the teacher is left behind when the run is complete.

    Args:
        weight: of the cross entropy with the teacher's labels, mean over all pixels of unlabelled images; 0 is the
            control: unlabelled images add to the running statistics of batch normalisation alone.
        threshold: probability of the teacher's label below which a pixel is left out.
        decay: of the teacher's average for each training batch; in the first ones it is the plain mean.

    Reference:
        Tarvainen and Valpola 2017, arXiv:1703.01780 (the teacher); Sohn et al. 2020, FixMatch, arXiv:2001.07685 (the
        threshold); French et al. 2020, arXiv:1906.01916 (CutMix for segmentation). Differs: hard labels.
    """

    step: Tensor

    def __init__(
        self,
        weight: Annotated[float, Ge(0)],
        threshold: Annotated[float, Ge(0), Le(1)],
        decay: Annotated[float, Gt(0), Lt(1)],
    ) -> None:
        super().__init__()
        self.weight, self.threshold, self.decay = weight, threshold, decay
        self.teacher: nn.Module = nn.Identity()
        self.ignore_index = -1
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # averages taken; part of checkpoints

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Copies the model."""
        self.ignore_index = spec.ignore_index
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def enter(self, model: nn.Module) -> None:
        """The teacher begins as the student: stages before may have trained it."""
        self.teacher.load_state_dict(model.state_dict())
        self.step.zero_()

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step. Labelled and unlabelled images pass through the network apart from each other.

        Returns:
            The terms of the run's loss, ``consistency``, and ``pseudo_share``, the share of the pixels without a label
            of which the teacher is sure: in 0..1, not part of ``total``, 0 if all images have labels.
        """
        self.follow(model)
        labelled, unlabelled = batch.divide()
        output = by_class(model(labelled.image))
        terms = loss(output, labelled)
        nothing = torch.zeros_like(terms["total"])
        if unlabelled is None:
            return output, {**terms, "consistency": nothing, "pseudo_share": nothing}
        pseudo = self.pseudo_labels(unlabelled.image)
        pasted = boxes(pseudo)
        image, target = paste_neighbour(unlabelled.image, pasted[:, None]), paste_neighbour(pseudo, pasted)
        logits = model(image).logits.float()
        summed = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="sum")
        consistency = summed / target.numel()
        pseudo_share = (pseudo != self.ignore_index).float().mean()
        total = terms["total"] + self.weight * consistency
        return output, {**terms, "total": total, "consistency": consistency, "pseudo_share": pseudo_share}

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> Tensor:
        """The teacher's classes of images (N, C, H, W), ``ignore_index`` where it is not sure: (N, H, W) int64."""
        if self.teacher.training:  # as Lightning leaves it; Lightning warns of what is not before training begins
            self.teacher.eval()
        output: SegmenterOutput = self.teacher(image)
        probability, label = output.logits.float().softmax(dim=1).max(dim=1)
        return label.where(probability >= self.threshold, self.ignore_index)

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Moves the teacher's parameters and buffers towards the student, as the optimizer has left it."""
        decay = (1 - 1 / (self.step + 1)).clamp(max=self.decay)  # a tensor: nobody waits for the device
        for mine, other in zip(_values(self.teacher), _values(model), strict=True):
            if mine.is_floating_point():
                mine.lerp_(other, (1 - decay).to(mine.dtype))
            else:
                mine.copy_(other)  # the number of batches that batch normalisation has seen
        self.step += 1


def _values(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def boxes(mask_NHW: Tensor) -> Tensor:
    """A rectangle of half the area in each image, its proportions and place drawn at random: (N, H, W) bool.

    All draws come from torch's global generator, which every epoch restarts.
    """
    num, height, width = mask_NHW.shape
    stretch, y, x = torch.rand(3, num, 1, device=mask_NHW.device)
    tall = (stretch * math.log(_BOX_AREA)).exp()  # share of the height, from half of it to all
    inside: list[Tensor] = []
    for side, share, place in ((height, tall, y), (width, _BOX_AREA / tall, x)):
        position = torch.arange(side, device=mask_NHW.device) + 0.5 - place * (1 - share) * side
        inside.append((position >= 0) & (position < share * side))
    rows, columns = inside
    return rows[:, :, None] & columns[:, None, :]


def paste_neighbour(values: Tensor, pasted: Tensor) -> Tensor:
    """Where ``pasted``, the values of the next image of the batch (of the first one, in the last).

    Shape:
        values (N, ...), pasted (N, ...) bool, of shapes that broadcast -> (N, ...).
    """
    return torch.where(pasted, values.roll(-1, dims=0), values)
