"""Cuts windows out of decoded images, wherever those are kept: on the training device or in a memory map."""

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segsweep.data.storage import Split

log = logging.getLogger(__name__)

_DEVICE_SHARE = 0.25  # of free device memory that the data may take
_LARGE = 1 << 13  # pixels of a window
Storage = Literal["auto", "device", "memory"]


class Windows:
    """The pixels of one split, to be gathered in batches.

    Args:
        split: decoded.
        device: that trains.
        storage: ``device`` keeps all pixels there, ``memory`` in the memory map; ``auto`` decides by free memory.

    Attributes:
        is_resident: whether gathering happens on the device; else somebody should read ahead.
    """

    def __init__(self, split: Split, device: torch.device, storage: Storage) -> None:
        images, masks = torch.from_numpy(split.images), torch.from_numpy(split.masks)
        self._decoded_masks = masks
        self.is_resident = storage == "device" or (storage == "auto" and _fits(images.nbytes + masks.nbytes, device))
        if self.is_resident and device.type != "cpu":
            images, masks = images.to(device), masks.to(device)
        self.images, self.masks = images, masks
        self.size = split.size
        self.sizes = torch.from_numpy(split.sizes)
        self.starts = torch.from_numpy(split.starts[:-1])

    def whole(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, H, W, C) and masks (N, H, W), uint8, of a split whose images have one size."""
        if self.size is None:
            raise ValueError("images of different sizes have no common window; cut one")
        index = index.to(self.images.device, non_blocking=True)
        height, width = self.size
        images = self.images.view(-1, height, width, self.images.shape[1])
        return images.index_select(0, index), self.masks.view(-1, height, width).index_select(0, index)

    def cut(self, index: Tensor, corner_N2: Tensor, size: tuple[int, int], ignore_index: int) -> tuple[Tensor, Tensor]:
        """Windows of one size, one from each image.

        Args:
            index: (N,) int64 positions of the images.
            corner_N2: (N, 2) int64, row and column of each window's first pixel; may lie outside the image.
            size: (h, w) of the windows.
            ignore_index: for mask pixels outside the image; the image is mirrored there.

        Returns:
            images (N, h, w, C) and masks (N, h, w), uint8.
        """
        if self.images.device.type == "cpu" and size[0] * size[1] >= _LARGE:
            return self._copied(index, corner_N2, size, ignore_index)
        return self._gathered(index, corner_N2, size, ignore_index)

    def _gathered(
        self, index: Tensor, corner_N2: Tensor, size: tuple[int, int], ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        """Pixel by pixel, all windows in a few operations."""
        sizes = self.sizes[index]
        rows, is_row = _mirror(corner_N2[:, :1] + torch.arange(size[0]), sizes[:, :1])
        columns, is_column = _mirror(corner_N2[:, 1:] + torch.arange(size[1]), sizes[:, 1:])
        first = self.starts[index, None] + rows * sizes[:, 1:]  # (N, h)
        # Else the host would wait for all that the device has still to do.
        first, columns, is_row, is_column = (
            x.to(self.images.device, non_blocking=True) for x in (first, columns, is_row, is_column)
        )
        pixel = first[:, :, None] + columns[:, None, :]  # (N, h, w)
        inside = is_row[:, :, None] & is_column[:, None, :]
        mask = torch.where(inside, _at(self.masks, pixel), ignore_index)
        return _at(self.images, pixel), mask

    def _copied(
        self, index: Tensor, corner_N2: Tensor, size: tuple[int, int], ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        """Row by row, window after window: on a CPU in a tenth of the time, if windows are large."""
        images = self.images.new_empty(len(index), *size, self.images.shape[1])
        masks = self.masks.new_full((len(index), *size), ignore_index)
        sizes, starts = self.sizes[index].tolist(), self.starts[index].tolist()
        for n, ((height, width), start, (y, x)) in enumerate(zip(sizes, starts, corner_N2.tolist(), strict=True)):
            top, left = max(0, -y), max(0, -x)  # of what lies inside the image, in the window
            bottom, right = min(size[0], height - y), min(size[1], width - x)
            if max(top, size[0] - bottom) > bottom - top or max(left, size[1] - right) > right - left:
                one = self._gathered(index[n : n + 1], corner_N2[n : n + 1], size, ignore_index)  # mirrored repeatedly
                images[n : n + 1], masks[n : n + 1] = one
                continue
            inside = slice(top, bottom), slice(left, right)
            source = slice(y + top, y + bottom), slice(x + left, x + right)
            images[n][inside] = self.images[start : start + height * width].view(height, width, -1)[source]
            masks[n][inside] = self.masks[start : start + height * width].view(height, width)[source]
            _mirror_outwards(images[n, top:bottom], 1, left, right)
            _mirror_outwards(images[n], 0, top, bottom)
        return images, masks

    def classes_at(self, index: Tensor, y_NT: Tensor, x_NT: Tensor) -> Tensor:
        """Mask values at (N, T) pixels of the images: (N, T) uint8, on the CPU, which waits for no device."""
        pixel = self.starts[index, None] + y_NT * self.sizes[index, 1:] + x_NT
        return _at(self._decoded_masks, pixel)


def _at(pixels: Tensor, index: Tensor) -> Tensor:
    """``pixels[index]`` by whole rows, which on a CPU takes a third of the time or less."""
    return pixels.index_select(0, index.flatten()).view(*index.shape, *pixels.shape[1:])


def _mirror_outwards(image: Tensor, dim: int, start: int, end: int) -> None:
    """Fills what lies before ``start`` and from ``end`` on with what lies on the other side of that line."""
    side = image.shape[dim]
    for at, num, source in ((0, start, start), (end, side - end, 2 * end - side)):
        if num:
            image.narrow(dim, at, num).copy_(image.narrow(dim, source, num).flip(dim))


def _mirror(position: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Positions reflected into 0..size-1, the border pixel repeated, and which of them lay inside."""
    folded = position % (2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded), (position >= 0) & (position < size)


def _fits(num_bytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # the page cache is the device's memory
    free, _ = torch.cuda.mem_get_info(device)
    if num_bytes <= _DEVICE_SHARE * free:
        return True
    log.info("the data takes more than a quarter of free device memory: it stays memory-mapped and is read ahead")
    return False


def rare_classes(counts_NK1: np.ndarray) -> tuple[Tensor, Tensor]:
    """How rare classes are, from pixel counts (n, K + 1) of the training masks.

    Returns:
        weight (256,) float32 of a mask value, inverse to its share of pixels, 0 for what never occurs and ignored
        pixels; is_rare (K,) bool: classes with less than half of an equal share.
    """
    pixels = torch.from_numpy(counts_NK1[:, :-1].sum(axis=0)).double()
    share = pixels / pixels.sum().clamp_min(1)
    present = share > 0
    weight = torch.zeros(256)
    weight[: len(share)] = torch.where(present, 1 / share.clamp_min(1e-12), 0.0).float()
    return weight, present & (share < 0.5 / present.sum().clamp_min(1))
