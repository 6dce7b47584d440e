"""A task that only a model that carries information across the whole image can solve.

Each scene has a cue near one end and one to three discs near the other. All discs look alike; their class is told by
the cue alone: a bright, a dark or a striped square. Whatever sees less far than the gap between them finds the discs,
and can only guess their class.
"""

from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy import ndimage

from segsweep.data.source import Item, Sample
from segsweep.data.splits import SPLITS

_VERSION = 1  # raise it with any change below: scenes would differ
_CUES = 3
_CUE_SIZE = 9  # pixels, side of a cue
_RADIUS = (3, 5)  # pixels, of a disc
Grey = NDArray[np.float64]


class FarCue:
    """Scene i of a split is a pure function of (scene_seed, split, i); classes: background, bright, dark, striped.

    Args:
        size: (H, W) of a scene in pixels.
        gap: pixels, smallest horizontal distance between the cue and a disc.
        num_train: scenes of the train split.
        num_val: scenes of the val split.
        num_test: scenes of the test split.
        max_discs: a scene holds 1..max_discs discs, all of one class.
        noise: standard deviation of the pixel noise, in 0..1.
        scene_seed: of the scenes; independent of the run's seed, so that all runs see the same data.

    Raises:
        ValueError: the scene is too small for cue, gap and discs.

    Reference:
        The receptive-field test of long-range models (Tay et al. 2021, Long Range Arena, arXiv:2011.04006, Pathfinder),
        reduced to one fact that has to travel.
    """

    def __init__(
        self,
        size: tuple[int, int],
        gap: Annotated[int, Ge(0)],
        num_train: Annotated[int, Ge(1)],
        num_val: Annotated[int, Ge(1)],
        num_test: Annotated[int, Ge(1)],
        max_discs: Annotated[int, Ge(1)],
        noise: Annotated[float, Ge(0)],
        scene_seed: int,
    ) -> None:
        needed = 2 * _CUE_SIZE + gap + 3 * _RADIUS[1]
        if size[1] < needed or size[0] < 2 * _CUE_SIZE:
            raise ValueError(
                f"data.size={list(size)} is too small: data.gap={gap} needs {2 * _CUE_SIZE} rows and {needed} columns"
            )
        self.size, self.gap = (size[0], size[1]), gap
        self.max_discs, self.noise, self.seed = max_discs, noise, scene_seed
        counts = zip(SPLITS, (num_train, num_val, num_test), strict=True)
        self._items = {split: [Item(f"{i:05d}", f"{i:05d}") for i in range(num)] for split, num in counts}

    def identity(self) -> object:
        """All settings: there are no files."""
        counts = [len(self._items[split]) for split in SPLITS]
        return ["far_cue", _VERSION, counts, self.size, self.gap, self.max_discs, self.noise, self.seed]

    def items(self) -> dict[str, list[Item]]:
        """Scenes are independent: each is a group of its own."""
        return self._items

    def read(self, split: str, position: int) -> Sample:
        """Composes one scene: grey image (H, W, 1) and mask (H, W)."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), position])
        scene, mask = _background(rng, self.size), np.zeros(self.size, np.uint8)
        kind = int(rng.integers(_CUES))
        column = int(rng.integers(0, _CUE_SIZE))
        row = int(rng.integers(0, self.size[0] - _CUE_SIZE + 1))
        scene[row : row + _CUE_SIZE, column : column + _CUE_SIZE] += _cue(kind) * rng.uniform(0.3, 0.5)
        for _ in range(rng.integers(1, self.max_discs + 1)):
            radius = rng.uniform(*_RADIUS)
            y = rng.uniform(radius, self.size[0] - radius)
            x = rng.uniform(column + _CUE_SIZE + self.gap + radius, self.size[1] - radius)
            disc = _disc(self.size, y, x, radius)
            scene[disc] = 0.3
            scene[disc & ~_disc(self.size, y, x, radius - 1.5)] = 0.7  # a light rim, whatever lies below
            mask[disc] = kind + 1
        scene += rng.normal(0, self.noise, self.size)
        if rng.random() < 0.5:  # the cue may stand at either end
            scene, mask = scene[:, ::-1], mask[:, ::-1]
        image = (scene.clip(0, 1) * 255).round().astype(np.uint8)[:, :, None]
        return Sample(np.ascontiguousarray(image), np.ascontiguousarray(mask), {})


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Grey:
    """Smooth texture around mid-grey."""
    coarse = rng.uniform(-0.08, 0.08, (4, 12))
    grey: Grey = 0.45 + ndimage.zoom(coarse, (size[0] / 4, size[1] / 12), order=1)[: size[0], : size[1]]
    return grey


def _cue(kind: int) -> Grey:
    """What the cue adds to the scene, (_CUE_SIZE, _CUE_SIZE) in -1..1: bright, dark, or both beside each other."""
    mark = np.ones((_CUE_SIZE, _CUE_SIZE))
    if kind == 1:
        mark *= -1
    if kind == 2:
        mark[:, _CUE_SIZE // 3 : 2 * _CUE_SIZE // 3] = 0
        mark[:, 2 * _CUE_SIZE // 3 :] = -1
    return mark


def _disc(size: tuple[int, int], y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside
