"""Learns features without labels, by rebuilding images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from segsweep.losses import by_class
from segsweep.models.blocks import ConvEncoder, latent_decoder, resize_to
from segsweep.models.corruption import Corruption
from segsweep.objectives.objective import Loss, Objective, encoder_of
from segsweep.types import Batch, DataSpec, SegmenterOutput

_DECODER_WIDTHS = (16, 64)  # fewest and most channels of a level: the decoder is light beside any encoder


class Reconstruct(Objective):
    """Rebuilds every image, plain, denoising or masked.

    A model with an ``image_decoder`` of its own uses it, under all terms of the run's loss that need no label (a VAE
    its divergence, a W-Net its normalised cut). Any other with an encoder gets a light decoder without skips on the
    coarsest map; the loss is then the mean squared error of standardised intensities.

    Args:
        noise: standard deviation of Gaussian noise on the standardised image while training; the clean one is rebuilt.
        mask_ratio: share of square patches hidden while training.
        mask_patch: side of such a patch in pixels.

    Raises:
        ValueError: the model has no encoder, or its loss has no term that needs no label.

    Reference:
        Vincent et al. 2008 (denoising), He et al. 2022, arXiv:2111.06377 (masked; here all pixels are compared).
    """

    trains_logits = False

    def __init__(
        self,
        noise: Annotated[float, Ge(0)],
        mask_ratio: Annotated[float, Ge(0), Lt(1)],
        mask_patch: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.corruption = Corruption(noise, mask_ratio, mask_patch)
        self.decoder: nn.Module | None = None

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Builds the decoder, unless the model has one."""
        encoder_of(model, "reconstruction")
        if getattr(model, "image_decoder", None) is None:
            self.decoder = light_decoder(model, spec)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput | None, dict[str, Tensor]]:
        """One training step."""
        image, visible = self.corruption(batch.image)
        if self.decoder is None:
            output: SegmenterOutput = model(image)
            return None, _unlabelled(loss, output, batch)
        return None, _mse(rebuild(model, self.decoder, image, visible), batch)

    def view(self, model: nn.Module, image: Tensor) -> SegmenterOutput:
        """Logits as the model has them, and the reconstruction."""
        output: SegmenterOutput = model(image)
        if self.decoder is None:
            return output
        return output._replace(reconstruction=rebuild(model, self.decoder, image))

    def score(self, output: SegmenterOutput, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """The terms of training."""
        if self.decoder is None or output.reconstruction is None:
            return _unlabelled(loss, output, batch)
        return _mse(output.reconstruction, batch)


class Joint(Objective):
    """Segmentation and, on the same encoder, reconstruction: L = L_seg + factor L_rec.

    Unlabelled images give the second term alone, and pass through the network apart from the labelled ones: in common
    batches their statistics disturbed what is learnt from labels (test mIoU 0.21 instead of 0.37 on digits with 5 % of
    the labels, factor 0). The decoder is light, without skips, on the encoder's coarsest map. A model with an
    ``image_decoder`` of its own uses that instead, under the terms of the run's loss that need no label and with the
    weight that the loss gives them.

    Args:
        factor: of the light decoder's error; 0 is the control without any reconstruction.

    Reference:
        Myronenko 2018, arXiv:1810.11654 (factor 0.1). Differs: no variational part.
    """

    def __init__(self, factor: Annotated[float, Ge(0)]) -> None:
        super().__init__()
        self.factor, self.has_decoder = factor, False
        self.decoder: nn.Module | None = None

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Builds the decoder, unless the model has one."""
        encoder_of(model, "joint training")
        self.has_decoder = getattr(model, "image_decoder", None) is not None
        if self.factor and not self.has_decoder:
            self.decoder = light_decoder(model, spec)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step."""
        labelled, unlabelled = batch.divide()
        output = by_class(model(labelled.image))
        terms = loss(output, labelled)
        if self.has_decoder:
            own = [_unlabelled(loss, output, labelled)["total"]]
            segmentation, factor = terms["total"] - own[0], float(self.factor > 0)
            if factor and unlabelled is not None:
                own.append(_unlabelled(loss, model(unlabelled.image), unlabelled)["total"])
        elif self.decoder is not None:
            parts = (labelled,) if unlabelled is None else (labelled, unlabelled)
            own = [_mse(rebuild(model, self.decoder, part.image), part)["total"] for part in parts]
            segmentation, factor = terms["total"], self.factor
        else:
            return output, terms
        rebuilt = torch.stack(own).mean()
        return output, {**terms, "total": segmentation + factor * rebuilt, "joint_reconstruction": rebuilt}

    def view(self, model: nn.Module, image: Tensor) -> SegmenterOutput:
        """Logits, and the reconstruction of the shared encoder."""
        output: SegmenterOutput = model(image)
        if self.decoder is None:
            return output
        return output._replace(reconstruction=rebuild(model, self.decoder, image))


def light_decoder(model: nn.Module, spec: DataSpec) -> nn.Module:
    """A decoder without skips from the encoder's coarsest map to the image."""
    channels = encoder_of(model, "reconstruction").out_channels
    least, most = _DECODER_WIDTHS
    return latent_decoder(channels[-1], tuple(min(max(width, least), most) for width in channels), spec.in_channels)


def rebuild(model: nn.Module, decoder: nn.Module, image: Tensor, visible: Tensor | None = None) -> Tensor:
    """The reconstruction (N, C, H, W) from the encoder's coarsest map."""
    encoder = encoder_of(model, "reconstruction")
    # Hidden patches stay hidden at every level where the encoder knows how; elsewhere they are patches of mean colour.
    maps = encoder(image, visible) if visible is not None and isinstance(encoder, ConvEncoder) else encoder(image)
    return resize_to(decoder(maps[-1]), image)


def _mse(reconstruction: Tensor, batch: Batch) -> dict[str, Tensor]:
    value = F.mse_loss(reconstruction.float(), batch.image)
    return {"total": value, "reconstruction": value}


def _unlabelled(loss: Loss, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
    without_labels = getattr(loss, "without_labels", None)
    if without_labels is None:
        raise ValueError(
            f"{type(loss).__name__} does not tell which of its terms need no label: give it a method "
            f"without_labels(output, batch), as segsweep.losses.WeightedSum has"
        )
    terms: dict[str, Tensor] = without_labels(output, batch)
    return terms
