"""Losses: terms over (output, batch), and the weighted sum of them that a run minimises.

A term is a module ``(SegmenterOutput, Batch) -> scalar``. All are computed in float32 whatever the precision of the
model. Those that compare with labels leave out the pixels that are ``ignore_index``; a batch without any other pixel
gives exactly 0 and no gradient, not NaN.
"""

from segsweep.losses.autoencoding import Divergence, Reconstruction, count_batch, warming_terms
from segsweep.losses.boundary import Boundary
from segsweep.losses.class_weights import adapt
from segsweep.losses.lovasz import Lovasz
from segsweep.losses.ncut import NormalisedCut
from segsweep.losses.pixelwise import BCE, CrossEntropy, Focal, ProbabilityError
from segsweep.losses.region import MCC, Dice, Jaccard, Tversky
from segsweep.losses.valid import by_class, for_terms
from segsweep.losses.weighted_sum import WeightedSum

__all__ = [
    "BCE",
    "MCC",
    "Boundary",
    "CrossEntropy",
    "Dice",
    "Divergence",
    "Focal",
    "Jaccard",
    "Lovasz",
    "NormalisedCut",
    "ProbabilityError",
    "Reconstruction",
    "Tversky",
    "WeightedSum",
    "adapt",
    "by_class",
    "count_batch",
    "for_terms",
    "warming_terms",
]
