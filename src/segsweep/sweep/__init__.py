"""What a sweep is made of: its options, its jobs, how they run side by side, and what became of each of them."""

from segsweep.sweep.job import Job, Outcome
from segsweep.sweep.options import SweepOptions

__all__ = ["Job", "Outcome", "SweepOptions"]
