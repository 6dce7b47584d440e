"""W-Net: two U-Nets in a row, the second of which has to redraw the image from the segmentation of the first.

How the data flows:

    image -> U-Net -> logits -> softmax over K -> U-Net -> reconstruction
"""

from torch import Tensor

from segsweep.models.unet import UNet
from segsweep.types import SegmenterOutput


class WNet(UNet):
    """A U-Net that segments, and a second one that sees its class probabilities alone.

    The mask is the bottleneck, so the model can learn without labels: from the reconstruction, and from a soft
    normalised cut of the probabilities as a loss term. The first U-Net is ``UNet`` itself, down to the
    names of its weights.

    Args:
        in_channels: image channels.
        num_classes: classes, K; without labels, the number of segments.
        widths: channels of each level of both U-Nets, fine to coarse; two levels or more.

    Shape:
        image (N, C, H, W), any H and W >= ``2 ** (len(widths) - 1)`` -> logits (N, K, H, W),
        reconstruction (N, C, H, W), latent (N, K, H, W): the probabilities.

    Raises:
        ValueError: fewer than two levels.

    Reference:
        Xia and Kulis 2017, arXiv:1711.08506. Differs: both U-Nets are ours (narrower, one level less, batch
        normalisation, no dropout, no separable convolutions); all loss terms share one step instead of alternating; no
        conditional random field afterwards.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: tuple[int, ...]) -> None:
        super().__init__(in_channels, num_classes, widths)
        self.image_decoder = UNet(num_classes, in_channels, widths)

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images, and redraws them from the segmentation."""
        logits = super().forward(image).logits
        probability = logits.softmax(dim=1)
        return SegmenterOutput(logits, self.image_decoder(probability).logits, probability)
