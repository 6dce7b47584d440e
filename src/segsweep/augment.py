"""Augmentation of a whole batch on the device that holds it: one path for the CPU and the GPU.

Every random number is a function of (seed, epoch, index), so an image looks the same whichever batch it falls into.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

Probability = Annotated[float, Ge(0), Le(1)]


class Augment:
    """Flip, rotation, zoom and shift in one resampling, random crop, then brightness and contrast.

    Args:
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring up and down.
        rotate: degrees; the angle is uniform in -rotate..rotate.
        zoom: factor z >= 1; the scale is log-uniform in 1/z..z.
        shift: share of height and width; uniform in -shift..shift.
        brightness: uniform in -brightness..brightness, added to intensities in 0..1.
        contrast: factor c >= 1 around the image's mean, log-uniform in 1/c..c.

    Shape:
        images (N, H, W, C) uint8, masks (N, H, W) uint8 -> image (N, C, h, w) float32 in 0..1, mask (N, h, w) int64,
        with (h, w) the crop or else (H, W). Pixels from outside the image are mirrored into it and ignored in the mask.
    """

    num_draws = 10

    def __init__(
        self,
        hflip: Probability,
        vflip: Probability,
        rotate: Annotated[float, Ge(0), Le(180)],
        zoom: Annotated[float, Ge(1)],
        shift: Annotated[float, Ge(0), Le(1)],
        brightness: Annotated[float, Ge(0), Le(1)],
        contrast: Annotated[float, Ge(1)],
    ) -> None:
        self.hflip, self.vflip = hflip, vflip
        self.rotate, self.zoom, self.shift = rotate, zoom, shift
        self.brightness, self.contrast = brightness, contrast
        self.moves = any((hflip, vflip, rotate, zoom != 1, shift))

    def __call__(
        self, images_NHWC: Tensor, masks_NHW: Tensor, draws: Tensor, crop: tuple[int, int] | None, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        """Augments a batch; ``draws`` is (N, num_draws) uniform in [0, 1)."""
        u = draws.unbind(dim=1)
        size = (images_NHWC.shape[1], images_NHWC.shape[2])
        image = images_NHWC.permute(0, 3, 1, 2).float().div_(255)  # a channels_last view of the gathered bytes
        mask = masks_NHW.long()
        if self.moves or crop:
            x, y = self._sources(u, size, crop or size)
            image, mask = _sample_bilinear(image, x, y), _sample_nearest(mask, x, y, ignore_index)
        if self.brightness or self.contrast != 1:
            level = image.mean(dim=(1, 2, 3), keepdim=True)
            gain = self.contrast ** (2 * u[8] - 1).view(-1, 1, 1, 1)
            lift = (self.brightness * (2 * u[9] - 1)).view(-1, 1, 1, 1)
            image = ((image - level) * gain + level + lift).clamp_(0, 1)
        return image, mask

    def _sources(self, u: tuple[Tensor, ...], size: tuple[int, int], out: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """For each output pixel the source position in pixels, x and y, both (N, h, w)."""
        height, width = size
        device = u[0].device
        # A crop starts at a whole pixel: without rotation, zoom or shift it copies pixels exactly.
        top = (u[0] * (height - out[0] + 1)).floor() + (out[0] - 1) / 2 + height * self.shift * (2 * u[1] - 1)
        left = (u[2] * (width - out[1] + 1)).floor() + (out[1] - 1) / 2 + width * self.shift * (2 * u[3] - 1)
        angle = torch.deg2rad(self.rotate * (2 * u[4] - 1))
        scale = self.zoom ** (2 * u[5] - 1)
        mirror_x = torch.where(u[6] < self.hflip, -1.0, 1.0)
        mirror_y = torch.where(u[7] < self.vflip, -1.0, 1.0)
        rows = torch.arange(out[0], device=device) - (out[0] - 1) / 2
        columns = torch.arange(out[1], device=device) - (out[1] - 1) / 2
        dx = (mirror_x / scale).view(-1, 1, 1) * columns.view(1, 1, -1)
        dy = (mirror_y / scale).view(-1, 1, 1) * rows.view(1, -1, 1)
        cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        return left.view(-1, 1, 1) + cos * dx - sin * dy, top.view(-1, 1, 1) + sin * dx + cos * dy


def _sample_bilinear(image_NCHW: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = image_NCHW.shape[-2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)  # (N, h, w, 2)
    sampled = F.grid_sample(image_NCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)


def _sample_nearest(mask_NHW: Tensor, x: Tensor, y: Tensor, outside: int) -> Tensor:
    height, width = mask_NHW.shape[-2:]
    column, row = x.round().long(), y.round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    position = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    sampled = mask_NHW.flatten(1).gather(1, position.flatten(1)).view_as(position)
    return torch.where(inside, sampled, outside)
