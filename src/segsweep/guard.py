"""Keeps updates that are not finite from the weights, and says which images they came from."""

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

_LONGEST_WAIT = 50  # optimisation steps until the host looks at what the device has found
_MOST_SKIPS = 25  # in a row by a gradient scaler; it needs 16 at most to come down from where it starts
_NUM_NAMES = 8


class NotFiniteError(ArithmeticError):
    """The loss or the gradient is NaN or infinite. ``kind`` is the error class in the record."""

    kind = "nan"


class _Part(NamedTuple):
    """One batch of an optimisation step."""

    terms: dict[str, Tensor]
    images: Tensor  # positions


class _Step(NamedTuple):
    """One optimisation step."""

    epoch: int
    number: int
    parts: list[_Part]
    is_bad: Tensor  # scalar bool, of the losses or the gradient


class Norms(NamedTuple):
    """Of the gradients of several steps before clipping, without infinite ones: numbers, or scalars on the device."""

    total: Tensor | float
    largest: Tensor | float
    number: Tensor | float


class UpdateGuard:
    """Looks at every loss and every gradient.

    On a CPU it raises before anything bad happens. An accelerator works ahead of the host, which therefore must not
    look: there the update is left out by a flag on the device, and the host reads the flags of the last steps every 50
    steps, at the end of an epoch and before anything is saved. A fused optimizer leaves an update out altogether, as
    for a gradient scaler; any other is given a gradient of zeros, so that it at most coasts on its momentum through
    steps that are never saved.

    Args:
        name_of: position of a training image -> name of its file.
        looks_at_once: whether the host may look at every step.
    """

    def __init__(self, name_of: Callable[[int], str], looks_at_once: bool) -> None:
        self.name_of, self.looks_at_once = name_of, looks_at_once
        self._parts: list[_Part] = []
        self._steps: list[_Step] = []
        self._skips: Tensor | float = 0.0  # of a gradient scaler, in a row
        self._norms: Norms | None = None

    def see(self, terms: dict[str, Tensor], index: Tensor, epoch: int, step: int) -> None:
        """Looks at the loss of a batch before its gradient is computed.

        Args:
            terms: of the loss, with the key ``total``; scalars without a gradient.
            index: (N,) int64, positions of the images.
            epoch: that is running.
            step: optimisation steps done.

        Raises:
            NotFiniteError: the loss is not finite, and the host may look.
        """
        self._parts.append(_Part(terms, index))
        if self.looks_at_once and not isfinite(terms["total"]):
            raise self._error(epoch, step, self._parts)

    @torch.no_grad()
    def before_update(
        self, optimizer: Optimizer, epoch: int, step: int, is_scaled: bool, scale: Tensor | float = 1.0
    ) -> None:
        """Looks at the gradient of an optimisation step; the update is left out if it or a loss is not finite.

        Args:
            optimizer: about to make its step.
            epoch: that is running.
            step: optimisation steps done.
            is_scaled: a gradient scaler (``precision=16-mixed``) looks for infinite gradients itself and leaves updates
                out; that is how it works, unless it leaves out one after another.
            scale: by which the gradient is still multiplied.

        Raises:
            NotFiniteError: the gradient is not finite, and the host may look.
        """
        parts, self._parts = self._parts, []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or not parts:
            return
        # The Euclidean norm, nine times as quick as the largest value; it overflows where Adam's squares do.
        if self.looks_at_once and not is_scaled:
            # All of one device: what get_total_norm does, without sorting them first.
            norms = torch._foreach_norm(gradients)
            self._look(float(torch.linalg.vector_norm(torch.stack(norms))), epoch, step, parts)
            return
        norm = get_total_norm(gradients)
        is_bad = ~torch.isfinite(norm)
        self._norms = _added(self._norms, torch.where(is_bad, 0.0, norm / scale), is_bad)
        if is_scaled:
            self._skips = (self._skips + 1.0) * is_bad
            is_bad = self._skips > _MOST_SKIPS
        is_bad = is_bad | ~torch.isfinite(torch.stack([part.terms["total"] for part in parts])).all()
        self._steps.append(_Step(epoch, step, parts, is_bad))
        if self.looks_at_once or len(self._steps) == _LONGEST_WAIT:
            self.read()
        if not self.looks_at_once and not is_scaled:
            _leave_out(optimizer, gradients, is_bad)

    def _look(self, norm: float, epoch: int, step: int, parts: list[_Part]) -> None:
        """All of it where the host may look: numbers, which cost less than operations on scalars."""
        if not isfinite(norm):
            raise self._error(epoch, step, parts)
        before = self._norms or Norms(0.0, 0.0, 0.0)
        self._norms = Norms(before.total + norm, max(float(before.largest), norm), before.number + 1.0)

    def read(self) -> None:
        """Waits for the device and looks at the steps since the last time.

        Raises:
            NotFiniteError: one of them was bad; the first is named.
        """
        steps, self._steps = self._steps, []
        if steps and bool((flags := torch.stack([step.is_bad for step in steps]).cpu()).any()):
            step = steps[int(flags.int().argmax())]
            raise self._error(step.epoch, step.number, step.parts)

    def take_norms(self) -> dict[str, float]:
        """Mean and largest norm of the gradients since the last time, none without any; the host waits for them."""
        norms, self._norms = self._norms, None
        if norms is None or not (number := float(norms.number)):
            return {}
        return {"grad_norm": float(norms.total) / number, "grad_norm_max": float(norms.largest)}

    @property
    def norms(self) -> list[float] | None:
        """What ``take_norms`` will be made of; the host waits for the device."""
        return None if self._norms is None else [float(value) for value in self._norms]

    def take_up(self, norms: list[float] | None) -> None:
        """Goes on from the ``norms`` that were there before a run was interrupted."""
        self._norms = None if norms is None else Norms(*norms)

    def _error(self, epoch: int, step: int, parts: list[_Part]) -> NotFiniteError:
        bad = [part for part in parts if not isfinite(part.terms["total"])]
        if bad:
            values = {name: float(value) for name, value in bad[0].terms.items()}
            what = f"the loss is {values}"
        else:
            what = "the gradient is not finite"
        positions = torch.cat([part.images for part in bad or parts]).tolist()
        names = [self.name_of(position) for position in positions[:_NUM_NAMES]]
        more = f" and {len(positions) - _NUM_NAMES} more" * (len(positions) > _NUM_NAMES)
        return NotFiniteError(
            f"{what} at step {step}, epoch {epoch}, training images {', '.join(names)}{more}. It has not "
            f"reached the weights of any checkpoint. Lower optimizer.lr, or set trainer.gradient_clip_val=1"
        )


def _added(norms: Norms | None, norm: Tensor, is_bad: Tensor) -> Norms:
    number = (~is_bad).float()
    if norms is None:
        return Norms(norm, norm, number)
    return Norms(norms.total + norm, norm.clamp_min(norms.largest), norms.number + number)


def _leave_out(optimizer: Optimizer, gradients: list[Tensor], is_bad: Tensor) -> None:
    """Has the next step of an optimizer change nothing where ``is_bad``; nobody waits for the device."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):  # fused kernels read the flag of a gradient scaler
        optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
        return
    for gradient in gradients:
        gradient.masked_fill_(is_bad, 0)
