"""Objectives: what a stage of training learns from a batch."""

from segsweep.objectives.distill import Distill
from segsweep.objectives.mean_teacher import MeanTeacher
from segsweep.objectives.objective import Loss, Objective
from segsweep.objectives.prune import Prune, SegmentPruned
from segsweep.objectives.reconstruct import Joint, Reconstruct
from segsweep.objectives.segment import Segment
from segsweep.objectives.synthetic import Generate, SegmentSynthetic

__all__ = [
    "Distill",
    "Generate",
    "Joint",
    "Loss",
    "MeanTeacher",
    "Objective",
    "Prune",
    "Reconstruct",
    "Segment",
    "SegmentPruned",
    "SegmentSynthetic",
]
