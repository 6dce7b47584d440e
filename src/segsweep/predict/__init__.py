"""Segments images of one's own with finished runs: ``segsweep-predict`` and ``segsweep.load``."""

TTA = ("flips", "scales", "flips+scales")  # kinds of test-time augmentation
