"""The words that every other module speaks.

Shape letters, used as suffixes (``image_NCHW``) wherever a function reshapes:

    N  images of a batch            H W  height and width in pixels
    C  image channels               T    steps of a sweep
    K  classes                      D    features
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What a DataModule yields.

    Attributes:
        image: (N, C, H, W) float32, standardised with the data's ``mean`` and ``std``.
        mask: (N, H', W') int64, a class in ``0..K-1`` or ``ignore_index``. Equal in size to the image while training;
            at its native size in validation and test. An unlabelled image has a mask that is all ``ignore_index``.
        index: (N,) int64, position of each image in its split.
        num_unlabelled: how many images at the end are known to have no label, so that an objective can treat them
            apart without looking at masks, for which the host would wait.
    """

    image: Tensor
    mask: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    num_unlabelled: int = 0

    def divide(self) -> "tuple[Batch, Batch | None]":
        """The images before the unlabelled ones at the end, and those, or None if there are none."""
        if self.num_unlabelled == 0:
            return self, None
        num = len(self.image) - self.num_unlabelled
        return (
            Batch(self.image[:num], self.mask[:num], self.index[:num]),
            Batch(self.image[num:], self.mask[num:], self.index[num:], self.num_unlabelled),
        )


class SegmenterOutput(NamedTuple):
    """What every segmenter returns, whatever its family.

    Attributes:
        logits: (N, K, H, W), unnormalised, at the size of the image.
        reconstruction: (N, C, H, W) in the units of ``Batch.image``, or None if the model does not reconstruct.
        latent: (N, D, h, w) bottleneck of an autoencoder, or None.
        divergence: (N,) nats, Kullback-Leibler divergence of a variational model's latent from its prior, summed over
            the latent's dimensions, or None.
    """

    logits: Tensor
    reconstruction: Tensor | None = None
    latent: Tensor | None = None
    divergence: Tensor | None = None


@dataclass(frozen=True)
class DataSpec:
    """The facts of a dataset that models, losses, metrics and pictures share.

    Attributes:
        class_names: one name per class; their number is ``num_classes``.
        in_channels: image channels, 1 (grey) or 3 (RGB).
        ignore_index: mask value (0..255) that is neither trained on nor scored.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        size: (H, W) in pixels to which images are decoded; None: each keeps its own.
        tile: (h, w) in pixels of the overlapping tiles to score by; None: whole images.
        tile_overlap: share of a tile, in 0..0.9, that the next one covers again.
    """

    class_names: tuple[str, ...]
    in_channels: int
    ignore_index: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None
    tile: tuple[int, int] | None = None
    tile_overlap: float = 0.25

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)
