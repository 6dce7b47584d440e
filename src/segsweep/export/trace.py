"""From a segmenter to a graph that needs none of its Python: pixels in, logits out, sizes free where the model allows.

How the data flows:

    pixels (N, C, H, W) uint8 -> / 255 -> standardised -> segmenter -> logits (N, K, H, W) float32
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_OTHER_SIZES = ((1, 1.0, 1.0), (3, 1.5, 0.75), (1, 1.27, 2.1))  # images, and what height and width are multiplied by


class Deployed(nn.Module):
    """A segmenter behind the standardisation that it was trained with.

    Args:
        segmenter: in evaluation mode.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        dtype: that the segmenter computes in.

    Shape:
        pixels (N, C, H, W) uint8, or any type with values in 0..255 -> logits (N, K, H, W) float32.
    """

    mean_C11: Tensor
    scale_C11: Tensor

    def __init__(
        self, segmenter: nn.Module, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.segmenter, self.dtype = segmenter.to(dtype), dtype
        self.register_buffer("mean_C11", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("scale_C11", 1 / torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Segments a batch of images."""
        # In the order of segsweep.data.batches.standardise, so that not even the last bit differs.
        image = (pixels.float() / 255 - self.mean_C11) * self.scale_C11
        logits: Tensor = self.segmenter(image.to(self.dtype)).logits
        return logits.float()


@dataclass(frozen=True)
class Traced:
    """A traced segmenter.

    Attributes:
        program: pixels -> logits.
        is_free: whether height and width are free, not only the batch.
        why_fixed: what stood against free sizes, in torch's or ONNX Runtime's words; empty if they are free.
    """

    program: ExportedProgram
    is_free: bool
    why_fixed: str


class NotExportable(ValueError):
    """A model of which no graph can be made."""


def trace(model: Deployed, size: tuple[int, int], in_channels: int, is_free: bool) -> ExportedProgram:
    """Follows a batch of two images through the model.

    Args:
        model: in evaluation mode, on the CPU.
        size: (H, W) of the images.
        in_channels: C.
        is_free: whether the graph is to take other heights and widths, too.

    Raises:
        NotExportable: torch cannot.
    """
    if is_free:  # unequal sides, or torch would take them for one number
        size = (size[0], size[1] + (16 if size[0] == size[1] else 0))
    free = {0: Dim.DYNAMIC} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if is_free else {})
    example = torch.randint(0, 256, (2, in_channels, *size), dtype=torch.uint8)
    try:
        with torch.no_grad(), _quiet(), _whole_recurrences():
            return torch.export.export(model, (example,), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # torch raises a dozen kinds, most of them its own
        raise NotExportable(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on its own work."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _whole_recurrences() -> Iterator[None]:
    """Has torch know the shapes of recurrent layers without unrolling them, which would fix the number of steps."""
    aten = torch.ops.aten
    operators: list[Any] = [aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input]
    kernels = [operator.py_kernels.get(_COMPOSITE) for operator in operators]
    _replace(operators, [_recurrent_shapes] * len(operators))
    try:
        yield
    finally:
        _replace(operators, kernels)


def _replace(operators: list[Any], kernels: Sequence[Any]) -> None:
    for operator, kernel in zip(operators, kernels, strict=True):
        operator._dispatch_cache.clear()
        if kernel is None:
            operator.py_kernels.pop(_COMPOSITE, None)
        else:
            operator.py_kernels[_COMPOSITE] = kernel


def _recurrent_shapes(
    x: Tensor, state: Tensor | Sequence[Tensor], weights: Any, has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What recurrent layers return, without values."""
    states = [state] if isinstance(state, Tensor) else list(state)
    features = states[0].shape[-1] * (2 if bidirectional else 1)
    return (x.new_empty(*x.shape[:-1], features), *(one.clone() for one in states))
