"""Objectives: what a stage of training learns from a batch."""

from segsweep.objectives.objective import Loss, Objective
from segsweep.objectives.reconstruct import Joint, Reconstruct
from segsweep.objectives.segment import Segment

__all__ = ["Joint", "Loss", "Objective", "Reconstruct", "Segment"]
