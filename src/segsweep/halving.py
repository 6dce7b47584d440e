"""Asynchronous successive halving: how far a run may go before it has to be better than others. Pure logic.

Every run pauses after the first rung of epochs. When a place is free, the best of the paused ones goes on to the next
rung if it is among the best 1/eta of its own. Nobody waits for a rung to be full.

Reference:
    Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020. arXiv:1810.05934. There rungs are counted
    from the first; here from the end of a run, so that the last selection does not come just before it. There a
    promotion goes before a new run, which is ``breadth_first=False``.
"""

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from annotated_types import Ge, Gt

UNTIL = "until"  # attribute of a trial in the journal: epochs after which it pauses


@dataclass(frozen=True)
class SuccessiveHalving:
    """A pruner that pauses runs, and has the best of them go on.

    Args:
        reduction_factor: eta: one of as many goes on, to as many times the epochs.
        min_epochs: until the first selection.
        breadth_first: whether all new runs begin before any goes on. Otherwise early runs go on because there is little
            to compare them with (scripts/simulate_asha.py).
    """

    reduction_factor: Annotated[int, Ge(2)] = 2
    min_epochs: Annotated[int, Gt(0)] = 1
    breadth_first: bool = True

    @classmethod
    def of(cls, node: Mapping[str, Any] | None) -> Self | None:
        """From a pruner's plain description; None if it describes another one, or is none."""
        if not node or node.get("_target_") != f"{cls.__module__}.{cls.__qualname__}":
            return None
        return cls(**{field.name: node[field.name] for field in fields(cls) if field.name in node})

    def rungs(self, epochs: int) -> list[int]:
        """Epochs after which runs of so many pause.

        >>> SuccessiveHalving(3).rungs(8), SuccessiveHalving(3).rungs(100), SuccessiveHalving(2, 3).rungs(20)
        ([1, 3], [1, 4, 11, 33], [5, 10])
        """
        found: set[int] = set()
        rung = epochs / self.reduction_factor
        while round(rung) >= self.min_epochs:
            found.add(round(rung))
            rung /= self.reduction_factor
        return sorted(found - {epochs})

    def until(self, epochs_done: int, epochs: int) -> int:
        """Where a run of ``epochs`` that goes on after ``epochs_done`` stops next: at a rung, or at its end."""
        return min((rung for rung in self.rungs(epochs) if rung > epochs_done), default=epochs)

    def promoted(self, scores: Mapping[int, Mapping[int, float]], paused: Set[int], epochs: int) -> int | None:
        """The run that goes on: of the highest rung that has one to spare, the best.

        Args:
            scores: run -> its scores by epochs done; more is better. Runs that are over count.
            paused: runs that could go on.
            epochs: of a whole run.
        """
        for rung in reversed(self.rungs(epochs)):
            ranked = _ranked(scores, rung)
            chosen = ranked[: len(ranked) // self.reduction_factor]
            for run in chosen:
                if run in paused and max(scores[run]) < self.until(rung, epochs):
                    return run
        return None

    def last_promoted(self, scores: Mapping[int, Mapping[int, float]], paused: Set[int], epochs: int) -> int | None:
        """The run that goes on once no other can join a rung: the best of the highest one, however few are there.

        Args:
            scores: as above.
            paused: as above.
            epochs: as above.
        """
        for rung in reversed(self.rungs(epochs)):
            ranked = _ranked(scores, rung)
            if ranked:
                return ranked[0] if ranked[0] in paused else None
        return None


def has_reached(until: int | None, steps: Iterable[int]) -> bool:
    """Whether a trial with scores at these epochs is where it has to pause."""
    return until is not None and max(steps, default=0) >= until


def _ranked(scores: Mapping[int, Mapping[int, float]], rung: int) -> list[int]:
    """Runs that have been there, best first, by the best score that they had until then."""
    reached = {run: score for run, own in scores.items() if (score := _score(own, rung)) is not None}
    return sorted(reached, key=lambda run: (-reached[run], run))


def _score(own: Mapping[int, float], rung: int) -> float | None:
    at = min((step for step in own if step >= rung), default=None)  # not every epoch is validated
    if at is None:
        return None
    known = [score for step, score in own.items() if step <= at and not math.isnan(score)]
    return max(known, default=-math.inf)
