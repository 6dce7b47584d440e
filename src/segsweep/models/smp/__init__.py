"""The one door to segmentation-models-pytorch.

The library is imported where a model is built, so that a run without it does not wait for it.
"""

from segsweep.models.smp.segmenter import SMP, SMPEncoder

__all__ = ["SMP", "SMPEncoder"]
