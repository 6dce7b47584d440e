"""Several models of one architecture run as one: their weights stacked, each on images of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segsweep.types import SegmenterOutput


class Stack(nn.Module):
    """S segmenters of one architecture, run by ``torch.vmap`` over weights of which each is one tensor (S, ...).

    A convolution of S models becomes one of S groups, a linear layer one batched matrix product: S times as few
    operations are started. The sum of the S losses gives each model its own gradient, because none sees another's
    images; an optimizer that treats every number by itself does to the stack what it would do to each model.

    Args:
        models: of one architecture, each with weights of its own, in training mode.

    Shape:
        image (S * N, C, H, W), the N of the first model first -> ``SegmenterOutput`` of S * N images in that order.

    Reference:
        https://pytorch.org/tutorials/intermediate/ensembling.html
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = tuple(models)  # a tuple: what they hold is stacked here, and not to be counted twice
        weights = [dict(model.named_parameters()) for model in models]
        buffers = [dict(model.named_buffers()) for model in models]
        self.weight_names, self.buffer_names = list(weights[0]), list(buffers[0])
        self.weights = nn.ParameterList(
            nn.Parameter(torch.stack([own[name].detach() for own in weights]), weights[0][name].requires_grad)
            for name in self.weight_names
        )
        for i, name in enumerate(self.buffer_names):
            self.register_buffer(f"buffer_{i}", torch.stack([own[name] for own in buffers]))

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Segments S equal parts of a batch, each by its own model.

        Raises:
            RuntimeError: torch cannot run the model so, e.g. ``nn.LSTM``, or it draws random numbers.
        """
        values: tuple[Tensor, ...] = torch.vmap(self._one, randomness="error")(
            dict(zip(self.weight_names, self.weights, strict=True)),
            {name: getattr(self, f"buffer_{i}") for i, name in enumerate(self.buffer_names)},
            image.view(len(self.models), -1, *image.shape[1:]),
        )
        return SegmenterOutput(**{name: value.flatten(0, 1) for name, value in zip(self._fields, values, strict=True)})

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], image: Tensor) -> tuple[Tensor, ...]:
        output: SegmenterOutput = functional_call(self.models[0], (weights, buffers), (image,))
        there = {name: value for name, value in output._asdict().items() if value is not None}
        self._fields = list(there)  # vmap returns tensors alone
        return tuple(there.values())

    @torch.no_grad()
    def lend(self) -> None:
        """Makes the weights of each model views of the stack's, so that it can be scored, saved and drawn as it is."""
        for i, model in enumerate(self.models):
            own = dict(model.named_parameters())
            for name, weight in zip(self.weight_names, self.weights, strict=True):
                own[name].data = weight.data[i]
            buffers = dict(model.named_buffers())
            for j, name in enumerate(self.buffer_names):
                buffers[name].data = getattr(self, f"buffer_{j}")[i]

    def gradients(self) -> list[list[Tensor]]:
        """The gradients of each model: views of the stack's."""
        rows = [weight.grad.unbind() for weight in self.weights if weight.grad is not None]
        return [list(own) for own in zip(*rows, strict=True)]
