"""Objectives: what a stage of training learns from a batch."""

from segsweep.objectives.mean_teacher import MeanTeacher
from segsweep.objectives.objective import Loss, Objective
from segsweep.objectives.reconstruct import Joint, Reconstruct
from segsweep.objectives.segment import Segment
from segsweep.objectives.synthetic import Generate, SegmentSynthetic

__all__ = ["Generate", "Joint", "Loss", "MeanTeacher", "Objective", "Reconstruct", "Segment", "SegmentSynthetic"]
