"""FCN: class scores at several strides, added from coarse to fine.

How the data flows (``num_scores`` = 3, six levels):

    image -> level 0 .. 2 -> level 3 ------> 1x1 -> + -> bilinear 8x -> logits
                               level 4 ----> 1x1 -> + -> 2x -^
                                 level 5 --> 1x1 -> 2x -^
"""

import torch
from torch import Tensor, nn

from segsweep.models.blocks import ConvEncoder, resize_to
from segsweep.types import SegmenterOutput


class FCN(nn.Module):
    """Scores every class on the coarsest levels of the encoder and adds the scores up; there is no other decoder.

    Args:
        in_channels: image channels.
        num_classes: classes, K.
        widths: channels of the encoder's levels, fine to coarse; level i has stride ``2**i``.
        num_scores: how many of the coarsest levels are scored. With six levels 3 is FCN-8s, 2 FCN-16s, 1 FCN-32s.

    Shape:
        image (N, C, H, W), any H and W -> logits (N, K, H, W).

    Raises:
        ValueError: ``num_scores`` is no number of levels.

    Reference:
        Long et al. 2015, arXiv:1411.4038. Differs: a small encoder trained from scratch, two convolutions a level with
        batch normalisation, instead of VGG16 with its two 4096-channel layers; the scores of the coarsest level start
        at random instead of at zero, because here nothing below them is pretrained.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: tuple[int, ...], num_scores: int) -> None:
        super().__init__()
        if not 1 <= num_scores <= len(widths):
            raise ValueError(
                f"num_scores={num_scores} is no number of levels: give 1 to {len(widths)}, as many as widths"
            )
        self.encoder = ConvEncoder(in_channels, widths)
        coarse_to_fine = widths[: -num_scores - 1 : -1]
        self.scores = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in coarse_to_fine)
        self.ups = nn.ModuleList(_bilinear_2x(num_classes) for _ in coarse_to_fine[1:])
        for parameter in self.scores[1:].parameters():
            nn.init.zeros_(parameter)  # as in the paper: a skip starts by changing nothing

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments a batch of images."""
        coarsest, *skips = reversed(self.encoder(image)[-len(self.scores) :])
        x = self.scores[0](coarsest)
        for up, score, skip in zip(self.ups, list(self.scores)[1:], skips, strict=True):
            # An odd map was pooled with its last row and column: twice the coarse map is one pixel too large.
            x = up(x)[..., : skip.shape[-2], : skip.shape[-1]] + score(skip)
        return SegmenterOutput(resize_to(x, image))


def _bilinear_2x(channels: int) -> nn.ConvTranspose2d:
    """A learnt 2x upsampling of (N, K, h, w) that starts as the bilinear one, each class by itself."""
    up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        up.weight.copy_(torch.eye(channels)[:, :, None, None] * torch.outer(line, line))
    return up
