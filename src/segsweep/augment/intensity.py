"""What happens to the values of an image: blur, colour, gamma, noise, and a hole that is cut out."""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from segsweep.augment.draws import Draw, around_one, around_zero, more

_NOISE_BANK = 1 << 20  # numbers, 4 MB: fits a CPU's cache, and an image of 512 x 512 repeats hardly any of it
_LEVEL_GRID = 64  # rows and columns at least that an image's mean is taken from, if it has as many
_HOLE = 0.5  # mid-grey


@dataclass(frozen=True)
class Intensity:
    """The part of ``Augment`` that changes values in place, whose docstring explains the fields."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    gamma: float
    noise: float
    blur: float
    cutout: float

    @property
    def changes(self) -> bool:
        """Whether anything is switched on."""
        return self._recolours or self.gamma != 1 or any((self.noise, self.blur, self.cutout))

    @property
    def _recolours(self) -> bool:
        return any((self.brightness, self.contrast != 1, self.saturation != 1, self.hue))

    def apply(self, image: Tensor, mask: Tensor, draws: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        """Optics first, then light, then the sensor; overwrites both tensors, and the mask only where it cuts out.

        Shape:
            image (N, C, h, w) float32 in 0..1, contiguous, and mask (N, h, w) int64, as they come in. New values may
            lie outside 0..1.
        """
        if self.blur:
            image = _blur(image, draws[:, Draw.BLUR, None] * self.blur, radius=math.ceil(2 * self.blur))
        if self._recolours:
            image = self._recolour(image, draws)
            if self.gamma != 1 or self.noise:  # else that of the caller is enough
                image.clamp_(0, 1)
        if self.gamma != 1:
            # Not pow_: on a CPU it rounds differently where a thread's share ends, which depends on the batch.
            image.log_().mul_(_per_image(around_one(draws, Draw.GAMMA, self.gamma))).exp_()
        if self.noise:
            deviation = draws[:, Draw.NOISE] * self.noise
            image.add_(_noise(draws, image.shape).mul_(_per_image(deviation))).clamp_(0, 1)
        if self.cutout:
            hole = self._hole(draws, (image.shape[2], image.shape[3]))
            image.masked_fill_(hole[:, None], _HOLE)
            mask.masked_fill_(hole, ignore_index)
        return image, mask

    def _recolour(self, image: Tensor, draws: Tensor) -> Tensor:
        """Brightness, contrast, saturation and hue are one affine map of the channels for each image."""
        offset = around_zero(draws, Draw.BRIGHTNESS, self.brightness)
        gain = around_one(draws, Draw.CONTRAST, self.contrast)
        if self.contrast != 1:
            offset = offset + _level(image) * (1 - gain)
        if image.shape[1] == 1 or (self.saturation == 1 and not self.hue):
            return image.mul_(_per_image(gain)).add_(_per_image(offset))
        chroma = around_one(draws, Draw.SATURATION, self.saturation) * gain
        angle = around_zero(draws, Draw.HUE, 2 * math.pi * self.hue)
        grey, same, turned = _chroma_basis(image.device)
        matrix_N33 = _per_row(gain) * grey + _per_row(chroma * angle.cos()) * same
        matrix_N33 = matrix_N33 + _per_row(chroma * angle.sin()) * turned
        return torch.baddbmm(_per_row(offset).expand(-1, 3, 1), matrix_N33, image.flatten(2)).view_as(image)

    def _hole(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """The pixels of a rectangle around a point anywhere in the image: (N, h, w) bool."""
        inside = [
            (torch.arange(side, device=draws.device) + 0.5 - draws[:, centre, None] * side).abs()
            < draws[:, length, None] * (self.cutout * side / 2)
            for side, centre, length in (
                (size[0], Draw.CUTOUT_Y, Draw.CUTOUT_HEIGHT),
                (size[1], Draw.CUTOUT_X, Draw.CUTOUT_WIDTH),
            )
        ]
        return inside[0][:, :, None] & inside[1][:, None, :]


def _per_image(value_N: Tensor) -> Tensor:
    return value_N.view(-1, 1, 1, 1)


def _per_row(value_N: Tensor) -> Tensor:
    return value_N.view(-1, 1, 1)


def _level(image: Tensor) -> Tensor:
    """Mean of each image over a sparse grid of its pixels: (N,)."""
    step_y, step_x = (max(1, side // _LEVEL_GRID) for side in image.shape[-2:])
    sparse = image[:, :, ::step_y, ::step_x]
    # Whole numbers: their sum does not depend on the order of summation, which differs with the size of the batch.
    total = sparse.mul(255).round_().sum(dim=(2, 3)).sum(dim=1, dtype=torch.float64)
    return (total / (255 * sparse[0].numel())).float()


def _blur(image: Tensor, deviation_N1: Tensor, radius: int) -> Tensor:
    """Gaussian blur with a width of its own for each image; edge pixels are repeated outwards."""
    distance = torch.arange(radius + 1, device=image.device)
    weight = torch.exp(-(distance**2) / (2 * deviation_N1**2 + 1e-6))  # (N, radius + 1); no blur is 1, 0, 0, ...
    total = weight[:, :1].clone()
    for i in range(1, radius + 1):
        total = total + 2 * weight[:, i, None]
    taps = (weight / total).unbind(1)
    # Shifted sums in the tensor's own layout: several times as fast on a CPU as a convolution with a group per image.
    for dim, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        padded, side = F.pad(image, pad, mode="replicate"), image.shape[dim]
        image = image * _per_image(taps[0])
        for i in range(1, radius + 1):
            both = padded.narrow(dim, radius - i, side) + padded.narrow(dim, radius + i, side)
            image.add_(both.mul_(_per_image(taps[i])))
    return image


def _noise(draws: Tensor, shape: torch.Size) -> Tensor:
    """Standard normal numbers that follow from the draws alone: each row is a piece of a fixed bank.

    Reading a bank costs a twentieth of drawing as many numbers, and depends on no generator's state. Any two rows
    overlap, shifted against each other, with a probability of 2 w / 2**20.
    """
    _, channels, height, width = shape
    bank = _noise_bank(draws.device)
    places = bank.numel() - width
    start = (more(draws, Draw.NOISE_PATTERN, channels * height) * places).long()
    return bank.as_strided((places, width), (1, 1)).index_select(0, start.flatten()).view(shape)


@cache
def _noise_bank(device: torch.device) -> Tensor:
    return torch.randn(_NOISE_BANK, generator=torch.Generator().manual_seed(0)).to(device)


@cache
def _chroma_basis(device: torch.device) -> Tensor:
    """Matrices that keep an RGB colour's grey, keep its chroma, and turn its chroma by 90 degrees: (3, 3, 3).

    Kept for each device, because a copy to it in every batch would wait for it.
    """
    # RGB to luma Y and the chroma plane I, Q of NTSC television (FCC 1953).
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    parts = torch.zeros(3, 3, 3).double()
    parts[0, 0, 0] = parts[1, 1, 1] = parts[1, 2, 2] = parts[2, 2, 1] = 1
    parts[2, 1, 2] = -1
    basis: Tensor = torch.linalg.inv(to_yiq) @ parts @ to_yiq
    return basis.float().to(device)
