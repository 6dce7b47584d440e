"""Terms of models that rebuild the image: they need no label, and serve no logits."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.types import Batch, SegmenterOutput

_MARGIN = 0.01  # of intensities in 0..1; a gradient of the cross entropy is at most its inverse


class Reconstruction(nn.Module):
    """Distance between the image and its reconstruction, mean over pixels and channels, labelled or not.

    It applies to models that reconstruct and is skipped for the others, so that one loss file serves every family.

    Args:
        kind: ``mse`` or ``mae`` on standardised values, or ``bce`` on both brought back to intensities in 0..1.
            Whatever it is, the reconstruction is in the units of ``Batch.image``. For ``bce`` intensities are kept
            0.01 away from black and white, where its logarithms would be infinite; its least value is not 0 but the
            entropy of the image.
        mean: per channel, the data's.
        std: per channel, the data's.
    """

    is_auxiliary = True
    reads_logits = False
    needs_labels = False
    mean: Tensor
    std: Tensor

    def __init__(self, kind: Literal["mse", "mae", "bce"], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor | None:
        """Scalar, 0 or more; None if the model does not reconstruct."""
        if output.reconstruction is None:
            return None
        reconstruction = output.reconstruction.float()
        if self.kind == "mse":
            return F.mse_loss(reconstruction, batch.image)
        if self.kind == "mae":
            return F.l1_loss(reconstruction, batch.image)
        truth = (batch.image * self.std + self.mean).clamp(_MARGIN, 1 - _MARGIN)
        free = reconstruction * self.std + self.mean
        # Bounded in value alone: a clamp has no gradient outside, and could not bring back what has left the range.
        shown = free + (free.clamp(_MARGIN, 1 - _MARGIN) - free).detach()
        return -(truth * shown.log() + (1 - truth) * (1 - shown).log()).mean()


class Divergence(nn.Module):
    """Kullback-Leibler divergence of a variational model's latent, in nats per image value.

    The divergence of an image is summed over the latent's dimensions (a mean would all but switch it off) and divided
    by the image's values C H W, which gives it the unit of ``Reconstruction``. With factor f on a ``mse``
    reconstruction, 2 f here is the evidence lower bound of a decoder with unit variance.

    Args:
        warmup_steps: training batches over which the term grows linearly from 0 to its value; ``count_batch`` counts
            them, and the count is part of checkpoints. Validation and test always see the full value, so that epochs
            can be compared.

    Reference:
        Kingma and Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114; warm-up: Sonderby et al. 2016,
        arXiv:1602.02282.

    >>> batch = Batch(torch.zeros(2, 1, 2, 2), torch.zeros(2, 2, 2, dtype=torch.long), torch.tensor([0, 1]))
    >>> output = SegmenterOutput(torch.zeros(2, 3, 2, 2), divergence=torch.tensor([2.0, 6.0]))
    >>> Divergence(warmup_steps=0)(output, batch).item()  # 4 nats over 4 values
    1.0
    """

    is_auxiliary = True
    reads_logits = False
    needs_labels = False
    step: Tensor

    def __init__(self, warmup_steps: Annotated[int, Ge(0)]) -> None:
        super().__init__()
        self.warmup_steps = warmup_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, output: SegmenterOutput, batch: Batch) -> Tensor | None:
        """Scalar, 0 or more; None if the model has no divergence."""
        if output.divergence is None:
            return None
        value = output.divergence.float().mean() / batch.image[0].numel()
        if not self.training or self.warmup_steps == 0:
            return value
        return value * (self.step / self.warmup_steps).clamp(max=1)


def warming_terms(loss: Any) -> list[Divergence]:
    """The terms of a loss that warm up."""
    return [term for term in loss.modules() if isinstance(term, Divergence)] if isinstance(loss, nn.Module) else []


def count_batch(warming: Iterable[Divergence]) -> None:
    """Tells terms that warm up that a training batch is done, however many times it has passed through them."""
    for term in warming:
        term.step += 1
