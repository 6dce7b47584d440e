"""First-order linear recurrences h_t = a_t h_(t-1) + b_t without a loop over time.

Two forms, for two kinds of gates:

    per channel   ``linear_scan``: log2(T) steps of doubling, each elementwise over the whole sequence
    per head      ``matrix_scan``: h = M b with M[t, s] = a_(s+1) ... a_t, batched matrix products
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segsweep.models.blocks import ceil_div

_CHUNK = 16  # steps: the matrices of a line of T steps have T x 16 entries instead of T x T


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Solves h_t = a_t h_(t-1) + b_t with h_(-1) = 0 along the second to last dimension.

    Args:
        a: (..., T, D) factors, in 0..1 if the result shall stay bounded.
        b: (..., T, D) inputs.

    Returns:
        (..., T, D).

    Reference:
        Hillis and Steele 1986, Data parallel algorithms: doubling; here (a, b) pairs under (a, b) o (a', b') =
        (a a', a' b + b').

    >>> linear_scan(torch.full((3, 1), 0.5), torch.ones(3, 1)).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    step, num = 1, b.shape[-2]
    while step < num:
        head, tail = b[..., :step, :], b[..., step:, :] + a[..., step:, :] * b[..., :-step, :]
        b = torch.cat([head, tail], dim=-2)
        a = torch.cat([a[..., :step, :], a[..., step:, :] * a[..., :-step, :]], dim=-2)
        step *= 2
    return b


def sweep_matrix(log_a: Tensor, reverse: Tensor) -> Tensor:
    """The matrix that sweeps a sequence: (M b)_t solves h_t = a_t h_(t-1) + b_t, or h_t = a_t h_(t+1) + b_t.

    Args:
        log_a: (..., heads, T) logarithms of the factors, 0 or less, float32 or float64.
        reverse: (heads,) bool, heads that run from the end to the beginning.

    Returns:
        (..., heads, T, T), entries in 0..1.

    Reference:
        The quadratic form of gated linear recurrences, Dao and Gu 2024, arXiv:2405.21060, section 3, here in both
        directions from one cumulative sum.

    >>> half = torch.full((2, 3), 0.5).log()
    >>> forward, backward = sweep_matrix(half, torch.tensor([False, True]))
    >>> forward.tolist()
    [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.25, 0.5, 1.0]]
    >>> torch.equal(forward.T, backward)
    True
    """
    total = log_a.cumsum(dim=-1)
    # Forward, M[t, s] = exp(sum over s < u <= t); backward, exp(sum over t <= u < s): differences of one position each.
    position = torch.where(reverse[:, None], log_a - total, total)
    steps = torch.arange(log_a.shape[-1], device=log_a.device)
    before = steps[:, None] >= steps
    is_back = reverse[:, None, None]
    is_seen = (before.T & is_back) | (before & ~is_back)  # not torch.where, which ONNX Runtime has not for bool
    difference = position[..., :, None] - position[..., None, :]
    # -inf before exp, not 0 after it: what is not seen may overflow, and inf x 0 would be NaN in the gradient.
    return difference.masked_fill(~is_seen, -torch.inf).exp()


def matrix_scan(log_a: Tensor, b: Tensor, reverse: Tensor) -> Tensor:
    """Solves h_t = a_t h_(t-1) + b_t, or h_t = a_t h_(t+1) + b_t, with one factor for all features of a head.

    Lines are cut into chunks: a matrix sweeps within each chunk, a second one carries the ends of the chunks on.

    Args:
        log_a: (B, heads, T) logarithms of the factors, 0 or less, float32 or float64.
        b: (B, heads, T, D) inputs.
        reverse: (heads,) bool, heads that run from the end to the beginning.

    Returns:
        (B, heads, T, D) in the dtype of ``b``.

    Reference:
        The block decomposition of Dao and Gu 2024, arXiv:2405.21060, section 6; chunks are carried by a matrix, too, as
        lines of feature maps have few of them.

    >>> half, ones = torch.full((1, 1, 3), 0.5).log(), torch.ones(1, 1, 3, 1)
    >>> matrix_scan(half, ones, torch.tensor([True])).flatten().tolist()
    [1.75, 1.5, 1.0]
    """
    num, heads, steps, features = b.shape
    # One chunk would do, too; a graph that is exported for any size takes the way that all sizes can go.
    if steps <= _CHUNK and not torch.compiler.is_exporting():
        return sweep_matrix(log_a, reverse).to(b.dtype) @ b
    missing = ceil_div(steps, _CHUNK) * _CHUNK - steps  # filled up by steps that change nothing
    log_a_BnGc = F.pad(log_a, (0, missing)).view(num, heads, -1, _CHUNK).transpose(1, 2)
    b_BnGcD = F.pad(b, (0, 0, 0, missing)).view(num, heads, -1, _CHUNK, features).transpose(1, 2)
    within = sweep_matrix(log_a_BnGc, reverse).to(b.dtype) @ b_BnGcD

    until = log_a_BnGc.cumsum(dim=-1)
    total = until[..., -1:]
    is_back = reverse[:, None, None]
    ends_BnGD = torch.where(is_back, within[..., :1, :], within[..., -1:, :]).squeeze(-2)
    chunks = sweep_matrix(total.squeeze(-1).transpose(1, 2), reverse).to(b.dtype) @ ends_BnGD.transpose(1, 2)
    # A chunk is entered by what has left the one before it; the first one by nothing.
    before, after = F.pad(chunks[:, :, :-1], (0, 0, 1, 0)), F.pad(chunks[:, :, 1:], (0, 0, 0, 1))
    entering_BnG1D = torch.where(is_back, after, before).transpose(1, 2).unsqueeze(-2)
    decay = torch.where(reverse[:, None], total - until + log_a_BnGc, until).exp()[..., None].to(b.dtype)
    h = torch.addcmul(within, decay, entering_BnG1D)
    return h.transpose(1, 2).reshape(num, heads, -1, features)[:, :, :steps]
