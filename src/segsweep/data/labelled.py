"""Labels as a budget: which training images may use their masks when only a share of them may."""

import numpy as np
from numpy.typing import NDArray

_AHEAD = 64  # images of the random order that are compared: subsets stay random, and choosing stays fast


def label_order(present_NK: NDArray[np.bool_], order_N: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """The first ``num`` images to label: a longer list begins with the shorter one.

    First every class gets an image, rarest classes first, each time by the image that brings most new classes. Then,
    of the images that come next in ``order_N``, the one is taken that brings the share of images with each class
    nearest to its share of all images.

    Args:
        present_NK: which classes occur in which image.
        order_N: positions of the images that have a mask, in random order.
        num: how many to choose, at most the length of ``order_N``.

    Returns:
        (num,) int64 positions.
    """
    if num >= len(order_N):
        return order_N  # all of them: no choice to make
    present = present_NK[order_N]
    share = present.mean(axis=0)
    weight = 1 / (share * (1 - share)).clip(0.01)  # a miss of a rare class is a greater one
    is_free = np.ones(len(order_N), bool)
    have = np.zeros(present.shape[1], np.int64)
    chosen: list[int] = []
    while len(chosen) < num:
        uncovered = (have == 0) & (share > 0)
        if uncovered.any():
            rarest = np.flatnonzero(uncovered)[share[uncovered].argmin()]
            candidates = np.flatnonzero(present[:, rarest] & is_free)
            pick = int(candidates[(present[candidates] & uncovered).sum(axis=1).argmax()])
        else:
            candidates = np.flatnonzero(is_free)[:_AHEAD]
            lacking = share * (len(chosen) + 1) - have
            misses = (present[candidates] - lacking) ** 2 @ weight
            pick = int(candidates[misses.argmin()])
        is_free[pick] = False
        have += present[pick]
        chosen.append(pick)
    return order_N[chosen]
