"""Learns to segment from labels."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from segsweep.losses import by_class
from segsweep.models.corruption import Corruption
from segsweep.objectives.objective import Loss, Objective
from segsweep.types import Batch, SegmenterOutput


class Segment(Objective):
    """The run's loss on what the model makes of the images. Images without a label add what needs none.

    Args:
        noise: standard deviation of Gaussian noise on the standardised image while training.
        mask_ratio: share of square patches hidden while training.
        mask_patch: side of such a patch in pixels.

    With noise or hidden patches it is the control of denoising and masked pretraining: the same corruption of the
    input, and nothing to reconstruct (Rasmus et al. 2015, arXiv:1507.02672, and Pezeshki et al. 2016,
    arXiv:1511.06430: with labels it is the noise that does much of the work).
    """

    def __init__(
        self,
        noise: Annotated[float, Ge(0)] = 0.0,
        mask_ratio: Annotated[float, Ge(0), Lt(1)] = 0.0,
        mask_patch: Annotated[int, Ge(1)] = 8,
    ) -> None:
        super().__init__()
        self.corruption = Corruption(noise, mask_ratio, mask_patch)
        self.takes_features = noise == mask_ratio == 0

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step."""
        output = by_class(model(self.corruption(batch.image)[0]))
        return output, loss(output, batch)
