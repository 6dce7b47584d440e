"""From a segmenter to a graph that needs none of its Python: pixels in, logits out, sizes free where the model allows.

How the data flows:

    pixels (N, C, H, W) uint8 -> / 255 -> standardised -> segmenter -> logits (N, K, H, W) float32
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from segsweep.report.printable import printable
from segsweep.types import DataSpec

_symbolic: Any = _config  # made by torch at run time: types are not known
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_LARGE = (256, 320)  # of what a graph for any size is traced with: nothing is computed, and no line is a single chunk


class NotExportableError(ValueError):
    """A model of which no graph can be made."""


class Deployed(nn.Module):
    """A segmenter behind the standardisation that it was trained with.

    Args:
        segmenter: in evaluation mode; is copied.
        spec: whose mean and standard deviation count.
        dtype: that the segmenter computes in.

    Shape:
        pixels (N, C, H, W) uint8, or any type with values in 0..255 -> logits (N, K, H, W) float32.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, segmenter: nn.Module, spec: DataSpec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.segmenter, self.dtype = copy.deepcopy(segmenter).to(dtype).eval(), dtype
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(spec.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Segments a batch of images."""
        # In the order of segsweep.data.pixels.standardise, so that not even the last bit differs.
        image = (pixels.float() / 255 - self.mean) * self.scale
        logits: Tensor = self.segmenter(image.to(self.dtype)).logits
        return logits.float()


def trace(
    model: Deployed, in_channels: int, size: tuple[int, int] | None, is_oblivious: bool = True
) -> ExportedProgram:
    """Follows a batch of images through the model; the batch is free in any case.

    Args:
        model: in evaluation mode, on the CPU.
        in_channels: C.
        size: (H, W) of the only images that the graph is to take; None: of any size.
        is_oblivious: take no branch because two sizes of the example happen to be equal. It frees most models, and a
            few of the batch's size 1, so it is worth a second try without.

    Raises:
        NotExportableError: torch cannot.
    """
    free = {0: Dim.DYNAMIC} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if size is None else {})
    example = torch.zeros(2, in_channels, *(size or _LARGE), dtype=torch.uint8)
    try:
        with torch.no_grad(), quiet(), _whole_recurrences(), _symbolic.patch(backed_size_oblivious=is_oblivious):
            program = torch.export.export(model, (example,), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # torch raises a dozen kinds, most of them its own
        raise NotExportableError(first_line(error)) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def first_line(error: Exception) -> str:
    """What a library says, without its pages of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries note on their own work."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # torch prints whole graphs
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
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
