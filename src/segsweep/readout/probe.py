"""A linear probe: how much of the classes a frozen representation holds."""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from segsweep.readout.features import Sample
from segsweep.readout.scores import Scores
from segsweep.types import DataSpec

_REGULARISATION = 1.0  # inverse strength, scikit-learn's default
_MAX_STEPS = 200


def probe(labelled: Sample, spec: DataSpec) -> Scores:
    """Logistic regression from the features of labelled training places to their classes.

    It is a 1x1 convolution on features that stay as they are; with labels, unlike clusters, so its score stands
    beside theirs and is no unsupervised one.

    Raises:
        ValueError: no labelled place has a class.
    """
    is_valid = labelled.labels != spec.ignore_index
    features, labels = labelled.features[is_valid], labelled.labels[is_valid]
    if not len(labels):
        raise ValueError("the labelled training images show no class: there is nothing to probe")
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    present = torch.unique(labels)
    if len(present) == 1:
        return Scores(torch.zeros(1, features.shape[1]), torch.zeros(1), present, spec.num_classes)
    fitted = LogisticRegression(C=_REGULARISATION, max_iter=_MAX_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # the last digits of the fit change no prediction to speak of
        fitted.fit(((features - mean) / scale).numpy(), labels.numpy())
    weight, bias = (torch.from_numpy(x).float() for x in (fitted.coef_, fitted.intercept_))
    if len(present) == 2:  # scikit-learn keeps the score of the second class alone
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / scale
    return Scores(weight, bias - weight @ mean, present, spec.num_classes)
