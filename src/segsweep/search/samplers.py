"""Optuna's samplers, made so that a search that is continued goes on as if it had never stopped."""

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from hydra.utils import get_class
from optuna.samplers import BaseSampler, GridSampler, QMCSampler

from segsweep.config import make
from segsweep.search.space import Space

_ONE_SEED = (GridSampler, QMCSampler)  # the seed decides on one sequence for the whole search
_RANDOM = "optuna.samplers.RandomSampler"


def make_sampler(node: Mapping[str, Any], space: Space, seed: int, trial: int, draw: int = 0) -> BaseSampler:
    """The sampler for one draw of one trial.

    What it draws is a function of the seed, the number of the trial and the trials before it, never of how many numbers
    this process has drawn.

    Args:
        node: ``_target_`` and arguments.
        space: of the search.
        seed: of the search.
        trial: number of the trial.
        draw: 0 for keys that are drawn together, 1, 2, ... for those that are drawn one by one.
    """
    target = get_class(node["_target_"])
    arguments: dict[str, Any] = dict(node)
    if "seed" in inspect.signature(target).parameters and arguments.get("seed") is None:
        arguments["seed"] = seed if target in _ONE_SEED else _mix(seed, trial, draw)
    if target is QMCSampler:  # categorical keys are no part of its sequence
        arguments["independent_sampler"] = {"_target_": _RANDOM, "seed": _mix(seed, trial, draw)}
    if target is GridSampler:
        arguments["_target_"] = f"{__name__}.Grid"
        arguments["search_space"] = {d.name: d.values() or [] for d in space.dimensions}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: BaseSampler = make(arguments)
    return sampler


def _mix(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())


class Grid(GridSampler):
    """Every point once, in an order that the seed shuffles. The search itself knows when it is over."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Optuna's own would stop its loop, which does not run here."""
