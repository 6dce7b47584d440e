"""Augmentation of a whole batch on the device that holds it: one path for the CPU and the GPU.

Every random number is a function of (seed, epoch, index), so an image looks the same whichever batch it falls into.
Nothing here waits for the device: no value decides a shape or a branch.
"""

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from segsweep.augment.draws import Draw
from segsweep.augment.geometry import Geometry
from segsweep.augment.intensity import Intensity
from segsweep.augment.mixing import Kind, Mixing

__all__ = ["Augment"]

Share = Annotated[float, Ge(0), Le(1)]
Factor = Annotated[float, Ge(1)]


class Augment:
    """Moves in one resampling, then changes of intensity, then pixels pasted from a partner image.

    Every strength is drawn for each image by itself. What is off (0, a factor of 1, or ``mix=None``) costs nothing and
    draws nothing: operations read fixed columns of ``draws``, so switching one on leaves the others as they were.

    Args:
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring up and down.
        rotate: degrees; the angle is uniform in -rotate..rotate.
        zoom: factor z; the magnification is log-uniform in 1/z..z.
        shift: share of the output's height and width; uniform in -shift..shift.
        shear: degrees by which vertical lines lean; uniform in -shear..shear.
        brightness: added to intensities in 0..1; uniform in -brightness..brightness.
        contrast: factor c around the image's mean; log-uniform in 1/c..c.
        saturation: factor s around the pixel's grey; log-uniform in 1/s..s. Grey images have none.
        hue: share of the colour circle; uniform in -hue..hue. Grey images have none.
        gamma: exponent g of intensities in 0..1; log-uniform in 1/g..g.
        noise: standard deviation of normal noise, intensities in 0..1; uniform in 0..noise.
        blur: pixels, standard deviation of a Gaussian; uniform in 0..blur, cut off at twice the limit.
        cutout: share of height and of width of a rectangle that turns grey and is ignored; each uniform in 0..cutout.
        mix: what a partner gives: ``cutmix`` a rectangle of any size, ``classmix`` half of the classes that occur in
            it, ``copy_paste`` its pixels of rare classes, None nothing.
        mix_probability: probability that an image gets a partner.

    Reference:
        Cutout, arXiv:1708.04552. Differs: a rectangle of random size instead of a square; its pixels are not scored.
        CutMix, arXiv:1905.04899. Differs: masks are pasted, not labels mixed, and the rectangle lies inside the image.
        ClassMix, arXiv:2007.07936. Differs: from labelled images by their true masks, not from predictions.
        Copy-Paste, arXiv:2012.07177. Differs: all pixels of rare classes instead of some instances; no blended edges.
        In all three the partner comes from the dataset, not from the batch, with a geometry and intensities of its own.
    """

    num_draws = len(Draw)

    def __init__(
        self,
        hflip: Share,
        vflip: Share,
        rotate: Annotated[float, Ge(0), Le(180)],
        zoom: Factor,
        shift: Share,
        shear: Annotated[float, Ge(0), Le(60)],
        brightness: Share,
        contrast: Factor,
        saturation: Factor,
        hue: Annotated[float, Ge(0), Le(0.5)],
        gamma: Factor,
        noise: Share,
        blur: Annotated[float, Ge(0), Le(10)],
        cutout: Share,
        mix: Kind | None,
        mix_probability: Share,
    ) -> None:
        self._geometry = Geometry(hflip, vflip, rotate, zoom, shift, shear)
        self._intensity = Intensity(brightness, contrast, saturation, hue, gamma, noise, blur, cutout)
        self._mixing = Mixing(mix, mix_probability)
        self.mix = mix
        self.moves = self._geometry.moves  # whether geometry changes anything; where a crop lies does not count
        self.mixes = self._mixing.mixes  # whether any image can get a partner

    @classmethod
    def none(cls) -> "Augment":
        """Leaves images as they are."""
        return cls(
            hflip=0, vflip=0, rotate=0, zoom=1, shift=0, shear=0, brightness=0, contrast=1, saturation=1, hue=0,
            gamma=1, noise=0, blur=0, cutout=0, mix=None, mix_probability=0,
        )  # fmt: skip

    @property
    def is_identity(self) -> bool:
        """Whether images come out as they are."""
        return not (self.moves or self._intensity.changes or self.mixes)

    def reach(self, out: tuple[int, int]) -> tuple[int, int]:
        """Size of a source window that holds all that an output of size ``out`` can need, whatever the draws.

        Args:
            out: (h, w) in pixels.

        Returns:
            (h', w') in pixels, centred on the output's centre; as even or odd as ``out``, so that the margins are whole
            pixels. Equal to ``out`` if nothing moves.
        """
        return self._geometry.reach(out)

    def __call__(
        self,
        images_NHWC: Tensor,
        masks_NHW: Tensor,
        draws: Tensor,
        centre_N2: Tensor,
        out: tuple[int, int],
        ignore_index: int,
    ) -> tuple[Tensor, Tensor]:
        """Augments a batch of windows; what lies outside a window is mirrored in the image and ignored in the mask.

        Args:
            images_NHWC: (N, H', W', C) uint8, C of 1 or 3.
            masks_NHW: (N, H', W') uint8.
            draws: (N, num_draws) float32, uniform in [0, 1), from ``rng.uniform``.
            centre_N2: (N, 2) float32, y and x of the output's centre in window pixels, before any shift. Pixel centres
                are whole numbers: the centre of the window is ((H' - 1) / 2, (W' - 1) / 2).
            out: (h, w) in pixels; equal to (H', W') if nothing moves, pixels are then copied.
            ignore_index: mask value of what is not scored.

        Returns:
            image (N, C, h, w) float32 in 0..1 and mask (N, h, w) int64, both new tensors.
        """
        if not (self.moves or self._intensity.changes):
            return images_NHWC.permute(0, 3, 1, 2).float().div_(255), masks_NHW.long()
        if self.moves:
            image, mask = self._geometry.sample(images_NHWC, masks_NHW, draws, centre_N2, out, ignore_index)
        else:
            # Channel by channel: the operations below are several times as fast on that on a CPU.
            image = images_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            mask = masks_NHW.long()
        image, mask = self._intensity.apply(image, mask, draws, ignore_index)
        # Weights of interpolation may add up to a little more than 1.
        return image.clamp_(0, 1), mask

    def is_mixed(self, draws: Tensor) -> Tensor:
        """Which images get a partner: draws (N, num_draws) -> (N,) bool."""
        return self._mixing.is_mixed(draws)

    def mix_in(
        self,
        image: Tensor,
        mask: Tensor,
        partner_image: Tensor,
        partner_mask: Tensor,
        draws: Tensor,
        is_rare_K: Tensor,
        ignore_index: int,
    ) -> tuple[Tensor, Tensor]:
        """Pastes pixels of partners, and their classes with them, into the images that ``is_mixed`` names.

        Args:
            image: (N, C, h, w) float32, from ``__call__``.
            mask: (N, h, w) int64, from ``__call__``.
            partner_image: like ``image``, augmented with draws of its own.
            partner_mask: like ``mask``.
            draws: (N, num_draws) of the images, not of the partners.
            is_rare_K: (K,) bool, the classes that ``copy_paste`` pastes.
            ignore_index: mask value that ``classmix`` and ``copy_paste`` never paste.

        Returns:
            image and mask, of the same shapes and layouts.
        """
        if not self.mixes:
            return image, mask
        pasted = self._mixing.pasted(partner_mask, draws, is_rare_K, ignore_index)
        return torch.where(pasted[:, None], partner_image, image), torch.where(pasted, partner_mask, mask)
