"""Learning-rate schedules over the whole training, stepped once per optimisation step.

Each takes the optimizer and the total number of steps, so that a longer training stretches the schedule instead of
falling off its end. Torch's own schedulers work as well: name one in YAML with ``_partial_: true``.
"""

from math import cos, pi
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

Share = Annotated[float, Ge(0), Le(1)]


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The optimizer's learning rate throughout; ``total_steps`` is not used."""
    return LambdaLR(optimizer, lambda _: 1.0)


def step(optimizer: Optimizer, total_steps: int, milestones: list[Share], gamma: Annotated[float, Gt(0)]) -> LambdaLR:
    """Multiplies the learning rate by ``gamma`` at each milestone, given as a share of all steps."""
    return LambdaLR(optimizer, lambda now: gamma ** sum(now >= share * total_steps for share in milestones))


def poly(optimizer: Optimizer, total_steps: int, power: Annotated[float, Gt(0)]) -> LambdaLR:
    """Decays as ``(1 - step / total) ** power``; 0.9 in DeepLab (Chen et al. 2017, arXiv:1606.00915)."""
    return LambdaLR(optimizer, lambda now: max(0.0, 1 - now / total_steps) ** power)


def cosine(optimizer: Optimizer, total_steps: int, warmup: Annotated[float, Ge(0), Lt(1)], floor: Share) -> LambdaLR:
    """Rises linearly over the first ``warmup`` share of the steps, then falls along half a cosine.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: optimisation steps of the whole training.
        warmup: share of the steps.
        floor: share of the peak that is reached at the end.

    Reference:
        Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, without restarts.
    """
    warmup_steps = round(warmup * total_steps)

    def factor(now: int) -> float:
        if now < warmup_steps:
            return (now + 1) / (warmup_steps + 1)
        progress = min(1.0, (now - warmup_steps) / max(1, total_steps - warmup_steps))
        return floor + (1 - floor) * (1 + cos(pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    rise: Annotated[float, Gt(0), Lt(1)],
    start_factor: Annotated[float, Ge(1)],
    end_factor: Annotated[float, Ge(1)],
) -> OneCycleLR:
    """Up to the optimizer's learning rate and down again; momentum stays as it is.

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: optimisation steps of the whole training.
        rise: share of the steps spent rising.
        start_factor: the first rate is the peak divided by it.
        end_factor: the last rate is the first divided by it.

    Reference:
        Smith and Topin 2018, arXiv:1708.07120.
    """
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer,
        peak,
        total_steps=max(total_steps, 2),
        pct_start=rise,
        div_factor=start_factor,
        final_div_factor=end_factor,
        cycle_momentum=False,
    )
