"""Gives clusters the names of classes, once for a whole dataset."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def match(confusion_KM: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of each cluster.

    With as many clusters as classes each class gets one, such that the mean IoU of these counts is the highest that
    any such match reaches: the IoU of a pair depends on no other pair, so an assignment finds it (Kuhn 1955, the
    Hungarian method). With more clusters than classes each cluster goes to its most frequent class, several to one: an
    upper bound, as labels decide the more, the more clusters there are.

    Args:
        confusion_KM: pixels of each class (rows) in each cluster (columns), of labelled training images.

    Returns:
        (M,) classes in ``0..K-1``.

    Raises:
        ValueError: fewer clusters than classes.

    >>> match(np.array([[1, 8], [6, 2]])).tolist()  # the first cluster is class 1
    [1, 0]
    >>> match(np.array([[5, 0, 9], [1, 4, 1]])).tolist()
    [0, 1, 0]
    """
    num_classes, num_clusters = confusion_KM.shape
    if num_clusters < num_classes:
        raise ValueError(f"{num_clusters} clusters cannot stand for {num_classes} classes")
    if num_clusters > num_classes:
        return np.asarray(confusion_KM.argmax(axis=0), np.int64)
    union = confusion_KM.sum(axis=1, keepdims=True) + confusion_KM.sum(axis=0, keepdims=True) - confusion_KM
    classes, clusters = linear_sum_assignment(confusion_KM / np.maximum(union, 1), maximize=True)
    return np.asarray(classes[clusters.argsort()], np.int64)
