"""Clusters of features, with the names of classes."""

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from segsweep.readout.features import Sample
from segsweep.readout.matching import match
from segsweep.readout.scores import Scores
from segsweep.rng import mix
from segsweep.types import DataSpec

_RESTARTS = 10
_BATCH = 4096  # features in a step of k-means


def cluster(every: Sample, labelled: Sample, num_clusters: int, spec: DataSpec, seed: int) -> Scores:
    """Clusters features without looking at labels, then names the clusters.

    Args:
        every: places in all training images; its labels are not used.
        labelled: places in labelled training images, which name the clusters.
        num_clusters: M, at least as many as classes.
        spec: facts of the data.
        seed: of the run.

    Returns:
        The score of a cluster: minus the squared distance to its centre, up to a term that all clusters share.

    Reference:
        Cho et al. 2021 (PiCIE), arXiv:2103.17070, and Hamilton et al. 2022 (STEGO), arXiv:2203.08414: k-means on the
        features of all pixels, one match for the whole dataset. Differs: the match is made on training images, never on
        those that are scored; mini-batch k-means, begun from the best of 10 starts.
    """
    kmeans = MiniBatchKMeans(
        num_clusters, n_init=_RESTARTS, batch_size=_BATCH, random_state=mix(seed, "k-means") % 2**32
    )
    kmeans.fit(every.features.numpy())
    centres = kmeans.cluster_centers_
    is_valid = (labelled.labels != spec.ignore_index).numpy()
    pairs = (labelled.labels.numpy()[is_valid], kmeans.predict(labelled.features.numpy()[is_valid]))
    confusion = np.zeros((spec.num_classes, num_clusters), np.int64)
    np.add.at(confusion, pairs, 1)
    centres_MD = torch.from_numpy(centres).float()
    classes = torch.from_numpy(match(confusion))
    return Scores(2 * centres_MD, -centres_MD.square().sum(dim=1), classes, spec.num_classes)
