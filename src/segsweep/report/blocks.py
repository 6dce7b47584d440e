"""Groups test images into blocks that may be taken for independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BLOCKS = 30  # at least, where there are as many images: an interval over fewer is wide and less exact
BLOCK_SIZE = 20  # images at most: neighbouring frames of a video look alike for about as long
FEW_BLOCKS = 12  # the smallest number for which intervals were tried out
NUM_GROUPS = 10  # with fewer, groups are cut into blocks: of two videos no interval could be told


class Blocks(NamedTuple):
    """Which block each image is in.

    Attributes:
        of_image: (n,) int64, 0 to one less than the number of blocks.
        text: in words.
        caveats: why intervals over these blocks may be less exact than others.
    """

    of_image: NDArray[np.int64]
    text: str
    caveats: tuple[str, ...] = ()

    @property
    def num(self) -> int:
        """Number of blocks."""
        return int(self.of_image.max()) + 1

    def sums(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """(n, ...) counts of images -> (B, ...) counts of blocks, exact below 2**53."""
        order = np.argsort(self.of_image, kind="stable")
        starts = np.searchsorted(self.of_image[order], np.arange(self.num))
        return np.add.reduceat(counts[order], starts, axis=0, dtype=np.float64)


def blocks_of(groups: NDArray[np.str_]) -> Blocks:
    """Blocks for images in the order of their split.

    Images of which each is a group of its own are neighbours in blocks: at least 30 blocks where there are as many
    images, of at most 20 images. Ten groups or more are the blocks themselves. Fewer are cut into stretches of
    neighbours under the same limits, which takes stretches of one video for independent: the best that can be done.

    >>> blocks_of(np.array(["a", "a", "b", "b"])).of_image.tolist()
    [0, 1, 2, 3]
    """
    kinds, of_image, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n = len(groups)
    if len(kinds) == n:
        return _checked(*_stretches(np.arange(n), _size(n)))
    if len(kinds) >= NUM_GROUPS:
        first_seen = np.unique(groups, return_index=True)[1].argsort().argsort()
        return _checked(first_seen[of_image], f"{len(kinds)} groups of {_range(sizes, 'image')}")
    result, num = np.empty(n, np.int64), 0
    for kind in range(len(kinds)):
        members = np.flatnonzero(of_image == kind)
        result[members] = num + _stretches(members, _size(n))[0]
        num = int(result[members].max()) + 1
    sizes = np.bincount(result)
    one = "one group" if len(kinds) == 1 else f"each of {len(kinds)} groups"
    text = f"{num} blocks of {_range(sizes, 'neighbouring image')} within {one}"
    return _checked(result, text, ("blocks of one group are taken for independent: intervals may be too short",))


def _checked(of_image: NDArray[np.int64], text: str, caveats: tuple[str, ...] = ()) -> Blocks:
    if of_image.max() + 1 < FEW_BLOCKS:
        caveats = (*caveats, f"{text}: over fewer than {FEW_BLOCKS}, intervals over images are rough")
    return Blocks(of_image, text, caveats)


def _size(n: int) -> int:
    """Images of a block, at most, for a split of ``n``."""
    return max(1, min(BLOCK_SIZE, n // NUM_BLOCKS))


def _stretches(members: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], str]:
    """Stretches of members, of sizes that differ by one at most."""
    num = -(-len(members) // size)
    of_member = np.arange(len(members)) * num // len(members)
    kind = "neighbouring image" if size > 1 else "image"
    return of_member, f"{num} blocks of {_range(np.bincount(of_member), kind)}"


def _range(sizes: NDArray[np.int64], kind: str) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low} to {high} {kind}s" if low < high else f"{low} {kind}s" if low > 1 else f"one {kind}"
