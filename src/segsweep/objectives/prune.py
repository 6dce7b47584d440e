"""Learns to do with fewer weights: takes the smallest ones out, step by step, while the rest goes on learning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from segsweep.channels import least, num_kept, pairs, taken_out, worth
from segsweep.losses import by_class
from segsweep.objectives.objective import Loss, Objective
from segsweep.types import Batch, DataSpec, SegmenterOutput

log = logging.getLogger(__name__)


class Prune(Objective):
    """The run's loss, while a growing part of the weights is set to 0 and kept there.

    In round r of R, evenly over the stage, a share ``amount * (1 - (1 - r / R) ** 3)`` is out: many at first, when
    there is much to spare, then fewer. What is out stays out. One round takes all out at the start of the stage.

    Args:
        amount: share of the weights, or of the channels, that is out in the end.
        structured: whole output channels, those of each convolution by themselves, instead of single weights, the
            smallest of the whole model.
        rounds: in which they are taken out.

    Raises:
        ValueError: ``structured``, and no convolution has batch normalisation behind it.

    Reference:
        Zhu and Gupta 2017, arXiv:1710.01878 (the schedule); Han et al. 2015, arXiv:1506.02626 (magnitude). Differs: one
        threshold for all layers instead of one for each.
    """

    prunes = True

    def __init__(self, amount: Annotated[float, Gt(0), Lt(1)], structured: bool, rounds: Annotated[int, Ge(1)]) -> None:
        super().__init__()
        self.amount, self.structured, self.rounds = amount, structured, rounds
        self._num, self._is_told = 0, False

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Makes a mask for each tensor of weights, or each convolution."""
        shapes = (
            [pair.norm.weight.shape for pair in pairs(model)]
            if self.structured
            else [weight.shape for weight in _weights(model)]
        )
        if not shapes:
            raise ValueError(
                f"structured={str(self.structured).lower()}: {type(model).__name__} has no convolution followed by "
                f"batch normalisation in an nn.Sequential. Use structured=false"
            )
        self._num = len(shapes)
        for i, shape in enumerate(shapes):  # buffers: part of checkpoints
            self.register_buffer(f"mask_{i}", torch.ones(shape, dtype=torch.uint8))

    @property
    def masks(self) -> list[Tensor]:
        """uint8, 1 for what is kept: (out_channels,) of each convolution, or in the shape of each weight."""
        return [getattr(self, f"mask_{i}") for i in range(self._num)]

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step."""
        output = by_class(model(batch.image))
        return output, loss(output, batch)

    def advance(self, model: nn.Module, done: int, total: int) -> None:
        """Takes out what is due before batch ``done`` of ``total``."""
        rounds = min(self.rounds, total)
        due, before = (1 + batch * rounds // total for batch in (done, done - 1))
        if due > before:
            self._take_out(model, self.amount * (1 - (1 - due / rounds) ** 3))

    @torch.no_grad()
    def _take_out(self, model: nn.Module, share: float) -> None:
        if self.structured:
            for mask, pair in zip(self.masks, pairs(model), strict=True):
                # Below all others: what is out stays out.
                score = worth(pair).where(mask.bool(), -1.0)
                mask.copy_(least(score, len(mask) - num_kept(len(mask), share)))
        else:
            weights = [weight.detach().float().abs() for weight in _weights(model)]
            scores = [w.where(mask.bool(), -1.0).flatten() for w, mask in zip(weights, self.masks, strict=True)]
            score = torch.cat(scores)
            parts = torch.split(least(score, round(share * score.numel())), [part.numel() for part in scores])
            for mask, part in zip(self.masks, parts, strict=True):
                mask.copy_(part.view_as(mask))
        self.after_update(model)

    @torch.no_grad()
    def after_update(self, model: nn.Module) -> None:
        """Sets what is out to 0 again."""
        if not self.structured:
            for mask, weight in zip(self.masks, _weights(model), strict=True):
                weight.mul_(mask)
            return
        for mask, pair in zip(self.masks, pairs(model), strict=True):
            pair.conv.weight.mul_(mask.view(-1, 1, 1, 1))
            for vector in (pair.conv.bias, pair.norm.weight, pair.norm.bias):
                if vector is not None:
                    vector.mul_(mask)

    def kept(
        self, model: nn.Module, node: dict[str, Any], build: Callable[[dict[str, Any]], nn.Module]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The model without the channels that are out, where that can be built; else the model with its zeros."""
        if not self.structured:
            return model, node
        names = [pair.name for pair in pairs(model)]
        masks = {name: mask.cpu() for name, mask in zip(names, self.masks, strict=True)}
        found = taken_out(model, masks, node, build)
        if found is None and not self._is_told:
            self._is_told = True
            log.warning(
                "pruned channels of %s stay in it as zeros, which save neither time nor space: it has no argument "
                "widths that describes what is left",
                type(model).__name__,
            )
        return found or (model, node)


class SegmentPruned(Objective):
    """The run's loss on the weights that an earlier stage has left; those that are out stay out.

    Raises:
        ValueError: no stage before prunes.
    """

    prunes = True

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[Prune, ...] = ()  # in a tuple: it belongs to its stage and is in checkpoints once

    def prepare(self, model: nn.Module, spec: DataSpec, earlier: Mapping[str, Objective]) -> None:
        """Finds the stage that prunes: the latest one."""
        found = [objective for objective in earlier.values() if isinstance(objective, Prune)]
        if not found:
            raise ValueError(
                "stages: to train what pruning has left needs an earlier stage with the objective "
                f"segsweep.objectives.Prune; before it there is {', '.join(earlier) or 'none'}. Add one, as "
                "conf/regime/prune.yaml does"
            )
        self._before = (found[-1],)

    def forward(self, model: nn.Module, batch: Batch, loss: Loss) -> tuple[SegmenterOutput, dict[str, Tensor]]:
        """One training step."""
        return self._before[0](model, batch, loss)  # type: ignore[no-any-return]

    def after_update(self, model: nn.Module) -> None:
        """Sets what is out to 0 again."""
        self._before[0].after_update(model)

    def kept(
        self, model: nn.Module, node: dict[str, Any], build: Callable[[dict[str, Any]], nn.Module]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """As the stage before keeps it."""
        return self._before[0].kept(model, node, build)


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """What single weights are taken out of: matrices and filters, not biases and scales."""
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]
