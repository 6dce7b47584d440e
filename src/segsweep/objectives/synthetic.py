"""Learns to make up pairs of image and mask, then to segment with them among the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from segsweep.losses import by_class
from segsweep.models.pair_vae import PairVAE
from segsweep.objectives.objective import Loss, Objective
from segsweep.types import Batch, DataSpec, SegmenterOutput


class Generate(Objective):
    """A variational autoencoder of image and mask together; the segmenter is not touched.

    The loss is the mean squared error of standardised intensities + the cross entropy of the mask + ``factor`` times
    the divergence in nats per image value.

    Args:
        widths: channels of the generator's levels, fine to coarse.
        latent_channels: channels of its latent, at stride ``2 ** (len(widths) - 1)``.
        factor: of the divergence; more makes what lies between two codes more like images, and all of them blurrier.

    Attributes:
        generator: the autoencoder; there once ``prepare`` was called.
    """

    trains_logits = False
    generator: PairVAE

    def __init__(
        self,
        widths: tuple[Annotated[int, Ge(1)], ...],
        latent_channels: Annotated[int, Ge(1)],
        factor: Annotated[float, Ge(0)],
    ) -> None:
        super().__init__()
        self.widths, self.latent_channels, self.factor = tuple(widths), latent_channels, factor
        self.ignore_index = -1

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Builds the generator."""
        self.ignore_index = spec.ignore_index
        self.generator = PairVAE(spec.in_channels, spec.num_classes, self.widths, self.latent_channels)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        """One training step of the generator."""
        return None, self._terms(batch)

    def score(self, output: SegmenterOutput, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """The generator's terms, from the mean of the latent."""
        return self._terms(batch)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        output: SegmenterOutput = self.generator(batch.image, batch.mask)
        logits, reconstruction, divergence = output.logits, output.reconstruction, output.divergence
        image = F.mse_loss(reconstruction, batch.image)  # type: ignore[arg-type]  # this model always reconstructs
        # Not the mean that torch takes: a batch without a valid pixel would be 0 / 0.
        summed = F.cross_entropy(logits, batch.mask, ignore_index=self.ignore_index, reduction="sum")
        mask = summed / (batch.mask != self.ignore_index).sum().clamp(min=1)
        kl = divergence.mean() / batch.image[0].numel()  # type: ignore[union-attr]
        return {"total": image + mask + self.factor * kl, "pair_image": image, "pair_mask": mask, "pair_kl": kl}


class SegmentSynthetic(Objective):
    """The run's loss on batches part of which is made up, by the generator that an earlier stage has trained.

    The last pairs of a batch give way to new ones, so the number of steps and of images stays what it is.

    Args:
        share: of each batch that is made up; 0 is the control on real pairs alone, 1 trains on made-up ones alone.
        source: ``interpolate``: decoded from a random place on the line from the code of a pair of the batch to that of
            another; ``prior``: decoded from normal noise.
        reach: of such a place, as a share of the line, at most; halfway, at 0.5, both pairs show through each other. 0
            rebuilds pairs of the batch.
        threshold: probability of the decoded class below which a pixel is ignored: there the generator is undecided.

    Raises:
        ValueError: no stage before trains a generator.

    Reference:
        DeVries and Taylor 2017, Dataset augmentation in feature space, arXiv:1702.05538 (interpolated codes). Differs:
        image and mask are decoded together.
    """

    def __init__(
        self,
        share: Annotated[float, Ge(0), Le(1)],
        source: Literal["interpolate", "prior"],
        reach: Annotated[float, Ge(0), Le(1)],
        threshold: Annotated[float, Ge(0), Le(1)],
    ) -> None:
        super().__init__()
        self.share, self.source, self.reach, self.threshold = share, source, reach, threshold
        self.ignore_index = -1
        self._trained: tuple[Generate, ...] = ()  # in a tuple: it belongs to its stage and is in checkpoints once

    @property
    def generator(self) -> PairVAE:
        """The generator of the earlier stage."""
        return self._trained[0].generator

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Finds the generator: the latest one."""
        self.ignore_index = spec.ignore_index
        found = [objective for objective in earlier.values() if isinstance(objective, Generate)]
        if not found:
            raise ValueError(
                "stages: segmentation with made-up pairs needs an earlier stage with the objective "
                f"segsweep.objectives.Generate; before it there is {', '.join(earlier) or 'none'}. Add one, as "
                "conf/regime/synthetic.yaml does"
            )
        self._trained = (found[-1],)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        """One training step; no output if some images are not those of ``batch``."""
        num = max(round(self.share * len(batch.image)), int(self.share > 0))  # one at least, also in the smallest batch
        if num == 0:
            output = by_class(model(batch.image))
            return output, loss(output, batch)
        image, mask = self.made_up(batch.image, batch.mask)
        kept = len(batch.image) - num
        mixed = Batch(
            torch.cat([batch.image[:kept], image[kept:]]), torch.cat([batch.mask[:kept], mask[kept:]]), batch.index
        )
        return None, loss(model(mixed.image), mixed)

    @torch.no_grad()
    def made_up(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As many new pairs as there are in a batch; all draws come from torch's global generator.

        Shape:
            image (N, C, H, W), mask (N, H, W) -> image (N, C, H, W) float32, standardised, and mask (N, H, W) int64.
        """
        generator = self.generator.eval()  # Lightning puts all modules in training mode
        code = generator.posterior(image, mask)[0]
        if self.source == "prior":
            code = torch.randn_like(code)
        else:
            place = self.reach * torch.rand(len(code), 1, 1, 1, device=code.device)
            code = code.lerp(code.roll(1, dims=0), place)
        return decoded_pairs(generator, code, image, self.threshold, self.ignore_index)


def decoded_pairs(
    generator: PairVAE, code: Tensor, like: Tensor, threshold: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) and masks (N, H, W) of codes; a class below ``threshold`` in probability is ignored."""
    image, logits = generator.decode(code, like)
    probability, label = logits.softmax(dim=1).max(dim=1)
    return image.contiguous(memory_format=torch.channels_last), label.where(probability >= threshold, ignore_index)
