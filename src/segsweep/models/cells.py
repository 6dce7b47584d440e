"""Recurrent cells that run over sequences in both directions, and the way to switch the recurrence off.

Gated cells start with gates biased towards remembering, some units for one step and some for ``_LONGEST``, as lines
of feature maps need it (Tallec and Ollivier 2018, Can recurrent neural networks warp time?, arXiv:1804.11188). With
torch's own start every unit forgets half of its state at each step, and what lies far away is never learnt.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segsweep.models.scan import linear_scan

Cell = Literal["elman", "elman_relu", "gru", "lstm", "mingru"]
Recurrence = Literal["on", "off"]
_LONGEST = 32  # steps


class MinGRU(nn.Module):
    """A GRU whose gate sees the input alone: linear in its state, so all steps are computed at once.

    z = sigmoid(W_z x), c = W_c x, h_t = (1 - z_t) h_(t-1) + z_t c_t, in both directions with weights of their own.

    Args:
        in_features: features of an input, D.
        hidden_size: units of each direction.

    Shape:
        (B, T, D) -> (B, T, 2 * hidden_size).

    Reference:
        Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201, the form without logarithms.
    """

    def __init__(self, in_features: int, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_features, 2 * hidden_size)
        self.candidate = nn.Linear(in_features, 2 * hidden_size)
        with torch.no_grad():
            self.gate.bias.copy_(-_memory_bias(2 * hidden_size))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Sweeps each sequence in both directions."""
        # float32 at least: products of many factors lose their last digits in bfloat16.
        exact = torch.promote_types(x_BTD.dtype, torch.float32)
        z, c = self.gate(x_BTD).to(exact).sigmoid(), self.candidate(x_BTD).to(exact)
        (keep, keep_back), (add, add_back) = (1 - z).chunk(2, dim=-1), (z * c).chunk(2, dim=-1)
        backward = linear_scan(keep_back.flip(1), add_back.flip(1)).flip(1)
        return torch.cat([linear_scan(keep, add), backward], dim=-1).to(x_BTD.dtype)


class Sequences(nn.Module):
    """A bidirectional recurrent layer over sequences, with its own control.

    Args:
        in_features: features of an input, D.
        hidden_size: units of each direction.
        cell: ``elman`` (tanh), ``elman_relu``, ``gru``, ``lstm`` or ``mingru``.
        recurrence: ``off`` shows each input to the layer as a sequence of its own: the same weights and the same work
            for each position, but nothing travels.

    Shape:
        (B, T, D) -> (B, T, 2 * hidden_size).
    """

    def __init__(self, in_features: int, hidden_size: int, cell: Cell, recurrence: Recurrence) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.rnn = _make(cell, in_features, hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Labels each position by its sequence, or by itself."""
        if self.recurrence == "on":
            return self._run(x_BTD)
        return self._run(x_BTD.reshape(-1, 1, x_BTD.shape[-1])).view(*x_BTD.shape[:-1], -1)

    def _run(self, x_BTD: Tensor) -> Tensor:
        out = self.rnn(x_BTD)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result


def _make(cell: Cell, in_features: int, hidden_size: int) -> nn.Module:
    if cell == "mingru":
        return MinGRU(in_features, hidden_size)
    torch_cells: dict[str, Callable[..., nn.RNNBase]] = {
        "elman": nn.RNN,
        "elman_relu": partial(nn.RNN, nonlinearity="relu"),
        "gru": nn.GRU,
        "lstm": nn.LSTM,
    }
    rnn = torch_cells[cell](in_features, hidden_size, batch_first=True, bidirectional=True)
    if cell in ("gru", "lstm"):
        with torch.no_grad():
            for bias in (rnn.get_parameter("bias_ih_l0"), rnn.get_parameter("bias_ih_l0_reverse")):
                remember = _memory_bias(hidden_size)
                # torch orders the gates of an LSTM input, forget, cell, output, those of a GRU reset, update, new.
                bias[hidden_size : 2 * hidden_size] = remember
                if cell == "lstm":
                    bias[:hidden_size] = -remember
    return rnn


def _memory_bias(num: int) -> Tensor:
    """Log of u, u uniform in 1.._LONGEST - 1: sigmoid of it keeps a state for about u steps."""
    return torch.empty(num).uniform_(1, _LONGEST - 1).log()
