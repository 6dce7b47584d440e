"""A regime is an ordered list of training stages; supervised training is one stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Gt, Le

# Not for type checkers alone: the signatures below are what config files are checked against.
from segsweep.objectives import Objective
from segsweep.readout import ClusterReadout

Images = Literal["labelled", "all", "mixed"]
EncoderState = Literal["trained", "thawed", "frozen"]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        share: share of all optimisation steps, above 0 and at most 1; None: what the other stages leave.
        images: ``labelled`` trains on the labelled images only (they repeat, so that an epoch keeps its number of
            steps); ``all`` on every image, those without a label carrying an all-``ignore_index`` mask; ``mixed``
            adds to each batch of labelled images one of unlabelled images, if there are any.
        encoder: of the model: ``trained``; ``frozen``, batch normalisation included; or ``thawed`` slowly, from its
            last parameter to its first, evenly over the first half of the stage (gradual unfreezing, Howard and Ruder
            2018, arXiv:1801.06146).
        objective: what is learnt from a batch.
    """

    share: Annotated[float, Gt(0), Le(1)] | None
    images: Images
    encoder: EncoderState
    objective: Objective


class Regime:
    """Says which stage a step belongs to.

    Equal ``trainer.max_epochs`` means equal optimisation steps for every regime: stages divide the steps, they do not
    add any.

    Args:
        stages: name -> stage, in order; their shares add up to 1.
        readout: how classes are read off a model that has seen no label; None: by its logits.

    Raises:
        ValueError: there is no stage, two leave their share open, or the shares do not add up to 1.
    """

    def __init__(self, stages: Mapping[str, Stage], readout: ClusterReadout | None = None) -> None:
        self.stages = dict(stages)
        self.readout = readout
        given = [stage.share for stage in self.stages.values() if stage.share is not None]
        num_open = len(self.stages) - len(given)
        if num_open > 1:
            raise ValueError("stages: only one of them may have share=null, which means what the others leave")
        rest = 1 - sum(given)
        if abs(rest) > 1e-6 if num_open == 0 else rest <= 0:
            what = "the shares of the stages" if num_open == 0 else "the shares of the other stages"
            raise ValueError(f"stages: {what} add up to {sum(given):g}, not {'1' if num_open == 0 else 'less than 1'}")
        self.shares = [rest if stage.share is None else stage.share for stage in self.stages.values()]

    @property
    def objectives(self) -> dict[str, Objective]:
        """Name of each stage -> what it learns, in order."""
        return {name: stage.objective for name, stage in self.stages.items()}

    def bounds(self, total_steps: int) -> list[tuple[int, int]]:
        """First step and end of each stage; every stage has a step, as far as there are as many steps as stages."""
        ends = [0]
        for i in range(1, len(self.shares)):
            ends.append(max(ends[-1] + 1, round(total_steps * sum(self.shares[:i]))))
        return list(pairwise([*ends, max(total_steps, ends[-1] + 1)]))

    def index_at(self, step: int, total_steps: int) -> int:
        """Position in ``stages`` of the stage of a step in ``0..total_steps-1``."""
        firsts = [first for first, _ in self.bounds(total_steps)]
        return max(i for i, first in enumerate(firsts) if first <= step)

    def stage_at(self, step: int, total_steps: int) -> Stage:
        """The stage of a step in ``0..total_steps-1``."""
        return list(self.stages.values())[self.index_at(step, total_steps)]
