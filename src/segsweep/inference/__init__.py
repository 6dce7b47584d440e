"""Segments images with finished runs: one model or several as one, flips and scales, whole or by tiles, any size.

    Ensemble.of_runs([run, ...], tile=..., flips=..., device=..., precision=...)
      .scores(image_NCHW)   batches as the DataModule makes them -> scores at the size of the image: for scoring
      .answer(pixels)       one image as it was read -> Answer at its own size, in bounded memory: for predicting

Scores (N, K, H, W) are to be read as logits: their largest is the class, their softmax the probabilities. Of a lone
model without flips and scales they are its logits, so that it predicts what its own test scored.
"""

from segsweep.inference.answer import Answer
from segsweep.inference.ensemble import Ensemble, refuse_twice
from segsweep.inference.hardware import pick_device, precision_on
from segsweep.inference.options import check_options
from segsweep.inference.views import FLIPS, SCALES, chosen_flips, mean_scores, trained_flips

__all__ = [
    "FLIPS",
    "SCALES",
    "Answer",
    "Ensemble",
    "check_options",
    "chosen_flips",
    "mean_scores",
    "pick_device",
    "precision_on",
    "refuse_twice",
    "trained_flips",
]
