"""What an autoencoder has to undo: Gaussian noise and hidden patches, while training only."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn


class Corruption(nn.Module):
    """Spoils images while training and leaves them alone in evaluation; the loss keeps comparing with the clean image.

    All draws come from torch's global generator, which every epoch restarts. It has no parameters, so weights pass
    between a model with and one without it; ``eval()`` on it alone switches it off in a model that trains.

    Args:
        noise: standard deviation of the Gaussian noise that is added to the standardised image; 0: none.
        mask_ratio: share of the patches that is hidden, 0 or more and below 1; 0: none.
        mask_patch: side of a square patch in pixels. Hidden areas stay exact down to the level of the encoder whose
            stride divides it; in coarser levels a cell that is partly visible counts as visible.

    Shape:
        image (N, C, H, W) -> the corrupted image (N, C, H, W), hidden pixels 0; and ``visible`` (N, 1, H, W), 0 where
        hidden and 1 elsewhere, or None if nothing is hidden.

    Reference:
        Vincent et al. 2008, Denoising autoencoders (noise). He et al. 2022, MAE, arXiv:2111.06377, and Tian et al.
        2023, SparK, arXiv:2301.03580 (patches, the latter for convolutions). Differs from SparK: hidden features are
        set to 0 after each level of the encoder instead of each convolution.
    """

    def __init__(
        self,
        noise: Annotated[float, Ge(0)],
        mask_ratio: Annotated[float, Ge(0), Lt(1)],
        mask_patch: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__()
        self.noise, self.mask_ratio, self.mask_patch = noise, mask_ratio, mask_patch

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Corrupts a batch of images."""
        if not self.training:
            return image, None
        if self.noise:
            image = image + self.noise * torch.randn_like(image)
        if not self.mask_ratio:
            return image, None
        visible = self._draw_visible(image)
        return image * visible, visible

    def _draw_visible(self, image: Tensor) -> Tensor:
        """Hides the same number of patches in every image; patches at the lower and right border may be cut."""
        height, width = image.shape[-2:]
        rows, columns = -(-height // self.mask_patch), -(-width // self.mask_patch)
        order = torch.rand(len(image), rows * columns, device=image.device).argsort(dim=1)
        visible = (order >= round(self.mask_ratio * rows * columns)).to(image.dtype).view(-1, 1, rows, columns)
        pixels = visible.repeat_interleave(self.mask_patch, 2).repeat_interleave(self.mask_patch, 3)
        return pixels[..., :height, :width]
