"""A regime is an ordered list of training stages; supervised training is one stage."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: shown in logs.
        share: share of all optimisation steps, above 0 and at most 1.
        images: ``labelled`` trains on the labelled images only (they repeat, so that an epoch keeps its number of
            steps); ``all`` trains on every image, those without a label carrying an all-``ignore_index`` mask.
    """

    name: str
    share: Annotated[float, Gt(0), Le(1)]
    images: Literal["labelled", "all"]


class Regime:
    """Says which stage a step belongs to.

    Equal ``trainer.max_epochs`` means equal optimisation steps for every regime: stages divide the steps, they do not
    add any.

    Args:
        stages: in order; their shares add up to 1.

    Raises:
        ValueError: there is no stage, or the shares do not add up to 1.
    """

    def __init__(self, stages: list[Stage]) -> None:
        total = sum(stage.share for stage in stages)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the stages add up to {total:g}, not 1")
        self.stages = tuple(stages)

    def stage_at(self, step: int, total_steps: int) -> Stage:
        """The stage of a step in ``0..total_steps-1``; every stage has at least one step."""
        end = 0
        for done, stage in enumerate(self.stages[:-1], start=1):
            end = max(end + 1, round(total_steps * sum(s.share for s in self.stages[:done])))
            if step < end:
                return stage
        return self.stages[-1]
