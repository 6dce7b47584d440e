"""Regions of an image: square patches, or superpixels that follow its edges."""

import torch
from torch import Tensor

from segsweep.models.blocks import ceil_div

_ROUNDS = 5  # of assigning pixels and moving centres; the paper stops at 10, and little moves after 5


def patches(image: Tensor, size: int) -> Tensor:
    """Numbers of square patches, in reading order.

    Args:
        image: (N, C, H, W); only its shape counts.
        size: side of a patch in pixels; those at the right and bottom edge may be smaller.

    Returns:
        (N, H, W) int64 in 0..R-1, R = ceil(H / size) * ceil(W / size).
    """
    height, width = image.shape[-2:]
    row = torch.arange(height, device=image.device) // size
    column = torch.arange(width, device=image.device) // size
    return (row[:, None] * ceil_div(width, size) + column).expand(image.shape[0], height, width)


@torch.no_grad()
def superpixels(image: Tensor, size: int, compactness: float) -> Tensor:
    """Numbers of superpixels: pixels grouped by colour and place around the centres of a grid.

    Args:
        image: (N, C, H, W), standardised.
        size: distance of the centres in pixels.
        compactness: how many standard deviations of colour weigh as much as one ``size`` of distance.

    Returns:
        (N, H, W) int64 in 0..R-1, R = ceil(H / size) * ceil(W / size), numbered by the grid cell of the centre. A
        region need not be connected, and one that loses all its pixels stays empty.

    Reference:
        Achanta et al. 2012, SLIC. Differs: colours as they are instead of CIELAB; a pixel chooses among the centres of
        its own and the eight cells around; regions are not made connected.
    """
    num, _, height, width = image.shape
    rows, columns = ceil_div(height, size), ceil_div(width, size)
    y, x = (torch.arange(n, device=image.device, dtype=torch.float32) / size for n in (height, width))
    place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(num, 2, height, width)
    features = torch.cat([image.float() / compactness, place], dim=1)
    candidates = _cells_around(height, width, size, image.device).expand(num, -1, height, width)
    region = patches(image, size)
    for _ in range(_ROUNDS):
        centre = region_means(features, region, rows * columns, empty=torch.inf)  # so nobody chooses an empty one again
        distance = torch.stack(
            [(spread(centre, c) - features).square().sum(dim=1) for c in candidates.unbind(dim=1)], dim=1
        )
        region = candidates.gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]
    return region


def region_means(features: Tensor, region: Tensor, num_regions: int, empty: float = 0.0) -> Tensor:
    """Means of features over regions.

    Args:
        features: (N, D, H, W).
        region: (N, H, W) int64 in 0..R-1.
        num_regions: R.
        empty: what a region without pixels gets.

    Returns:
        (N, D, R) float32 or float64.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # sums of many
    num, channels = features.shape[:2]
    index = region.flatten(1)[:, None]
    sums = features.new_zeros(num, channels, num_regions).scatter_add(
        2, index.expand(-1, channels, -1), features.flatten(2)
    )
    counts = features.new_zeros(num, 1, num_regions).scatter_add(2, index, torch.ones_like(index, dtype=sums.dtype))
    return torch.where(counts > 0, sums / counts.clamp(min=1), empty)


def spread(values: Tensor, region: Tensor) -> Tensor:
    """Gives every pixel the values of its region: (N, D, R), (N, H, W) -> (N, D, H, W)."""
    index = region.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.gather(2, index).view(*values.shape[:2], *region.shape[1:])


def _cells_around(height: int, width: int, size: int, device: torch.device) -> Tensor:
    """Numbers of each pixel's own cell and the eight around it, those of the border repeated: (9, H, W) int64."""
    rows, columns = ceil_div(height, size), ceil_div(width, size)
    row, column = torch.arange(height, device=device) // size, torch.arange(width, device=device) // size
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return torch.stack(
        [(row + dy).clamp(0, rows - 1)[:, None] * columns + (column + dx).clamp(0, columns - 1) for dy, dx in steps]
    )
