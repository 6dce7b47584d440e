"""Where the pixels of an augmented image come from: flip, shear, rotation, zoom and shift in one resampling."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segsweep.augment.draws import Draw, around_one, around_zero
from segsweep.kernels import is_available, resample
from segsweep.kernels.machine import reads

_LEAST_PIXELS = 1 << 10  # of a window, from which on a loop pays. Not of a batch: an image must not change with it


@dataclass(frozen=True)
class Geometry:
    """The affine part of ``Augment``, whose docstring explains the fields."""

    hflip: float
    vflip: float
    rotate: float
    zoom: float
    shift: float
    shear: float

    @property
    def moves(self) -> bool:
        """Whether anything is switched on."""
        return any((self.hflip, self.vflip, self.rotate, self.zoom != 1, self.shift, self.shear))

    @property
    def _only_mirrors(self) -> bool:
        return self.rotate == self.shift == self.shear == 0 and self.zoom == 1

    def reach(self, out: tuple[int, int]) -> tuple[int, int]:
        """The window of ``Augment.reach``."""
        half_height, half_width = (out[0] - 1) / 2, (out[1] - 1) / 2
        half_width += math.tan(math.radians(self.shear)) * half_height
        angle = math.radians(self.rotate)
        extents = _turned(half_height, half_width, angle), _turned(half_width, half_height, angle)
        needed = [2 * (self.zoom * extent + self.shift * side) + 1 for extent, side in zip(extents, out, strict=True)]
        height, width = (_round_up(size, side) for size, side in zip(needed, out, strict=True))
        return height, width

    def sample(
        self,
        images_NHWC: Tensor,
        masks_NHW: Tensor,
        draws: Tensor,
        centre_N2: Tensor,
        out: tuple[int, int],
        ignore_index: int,
    ) -> tuple[Tensor, Tensor]:
        """Samples the image bilinearly and the mask by nearest neighbour at the same positions; mirroring copies.

        Shape:
            images (N, H', W', C) and masks (N, H', W'), uint8 -> image (N, C, h, w) float32 in 0..1, contiguous, and
            mask (N, h, w) int64.
        """
        if self._only_mirrors and images_NHWC.shape[1:3] == out:
            return self._mirrored(images_NHWC, masks_NHW, draws)
        if self._is_compiled(images_NHWC, masks_NHW, draws, centre_N2, out):
            return resample.resampled(images_NHWC, masks_NHW, self._positions(draws, centre_N2, out), out, ignore_index)
        image = images_NHWC.permute(0, 3, 1, 2)
        grid = self._grid(draws, centre_N2, masks_NHW.shape[-2:], out)
        image = F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        # Outside is zero, which the shift by ignore_index makes "ignored"; floats hold the values of a byte exactly.
        mask = masks_NHW[:, None].float().sub_(ignore_index)
        mask = F.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return image.div_(255), mask[:, 0].add_(ignore_index).long()

    @staticmethod
    def _is_compiled(
        images_NHWC: Tensor, masks_NHW: Tensor, draws: Tensor, centre_N2: Tensor, out: tuple[int, int]
    ) -> bool:
        if masks_NHW.device.type != "cpu" or math.prod(masks_NHW.shape[1:]) < _LEAST_PIXELS:
            return False
        fits = resample.fits(images_NHWC, masks_NHW, out) and reads(draws) and reads(centre_N2)
        return fits and is_available()

    def _mirrored(self, images_NHWC: Tensor, masks_NHW: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        for dim, draw, share in ((2, Draw.HFLIP, self.hflip), (1, Draw.VFLIP, self.vflip)):
            if share:
                # Whole images out of both: choosing pixel by pixel takes longer than all else here.
                chosen = torch.arange(len(draws), device=draws.device) + len(draws) * (draws[:, draw] < share)
                images_NHWC, masks_NHW = (
                    torch.cat([x, x.flip(dim)]).index_select(0, chosen) for x in (images_NHWC, masks_NHW)
                )
        image = images_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return image.div_(255), masks_NHW.long()

    def _grid(self, draws: Tensor, centre_N2: Tensor, window: torch.Size, out: tuple[int, int]) -> Tensor:
        """Source positions in the units of ``grid_sample``, -1..1 from edge to edge: (N, h, w, 2), x before y."""
        matrix_N22 = self._matrix(draws)
        shift_N2 = [around_zero(draws, Draw.SHIFT_Y, self.shift), around_zero(draws, Draw.SHIFT_X, self.shift)]
        rows = torch.arange(out[0], device=draws.device) - (out[0] - 1) / 2
        columns = torch.arange(out[1], device=draws.device) - (out[1] - 1) / 2
        along_rows, along_columns = [], []
        for axis in (1, 0):
            unit = 2 / window[axis]
            by_column, by_row = (term * unit for term in matrix_N22[axis])
            start = (centre_N2[:, axis] + shift_N2[axis] * out[axis] + 0.5) * unit - 1
            along_rows.append(by_row[:, None] * rows + start[:, None])  # (N, h)
            along_columns.append(by_column[:, None] * columns)  # (N, w)
        # Affine, so a sum of what the row and what the column adds. As complex numbers x + iy it is one pass over the
        # grid, in the order of memory.
        grid = torch.complex(*along_rows)[:, :, None] + torch.complex(*along_columns)[:, None, :]
        return torch.view_as_real(grid)

    def _positions(self, draws: Tensor, centre_N2: Tensor, out: tuple[int, int]) -> Tensor:
        """Source positions in pixels of the window, as ``resampled`` takes them: (N, 2, 3)."""
        shifts = [around_zero(draws, at, self.shift) for at in (Draw.SHIFT_Y, Draw.SHIFT_X)]
        columns = []
        for axis, (by_column, by_row) in enumerate(self._matrix(draws)):
            middle = centre_N2[:, axis] + shifts[axis] * out[axis]
            first = middle - by_row * ((out[0] - 1) / 2) - by_column * ((out[1] - 1) / 2)
            columns += [first, by_row, by_column]
        return torch.stack(columns, dim=1).view(-1, 2, 3)

    def _matrix(self, draws: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Source steps of y and of x, each for one output pixel to the right and for one down."""
        angle = torch.deg2rad(around_zero(draws, Draw.ROTATE, self.rotate))
        slant = torch.deg2rad(around_zero(draws, Draw.SHEAR, self.shear)).tan()
        scale = around_one(draws, Draw.ZOOM, self.zoom)
        mirror_x = 1 - 2 * (draws[:, Draw.HFLIP] < self.hflip).float()
        mirror_y = 1 - 2 * (draws[:, Draw.VFLIP] < self.vflip).float()
        cos, sin = angle.cos() / scale, angle.sin() / scale
        return (sin * mirror_x, (sin * slant + cos) * mirror_y), (cos * mirror_x, (cos * slant - sin) * mirror_y)


def _turned(along: float, across: float, angle: float) -> float:
    """Half the extent along an axis of a box that is turned by up to ``angle`` radians."""
    angle = min(angle, math.atan2(across, along))  # there the corner lies on the axis; beyond, it recedes
    return math.cos(angle) * along + math.sin(angle) * across


def _round_up(size: float, out: int) -> int:
    """The next whole number that has the parity of ``out``: the window can then be centred at whole pixels."""
    whole = math.ceil(size - 1e-6)  # what is 1e-6 too large is a rounding error
    return whole + (whole - out) % 2
