"""Scenes of handwritten digits: a segmentation dataset that is embedded, with nothing to download.

One to a few of scikit-learn's 1,797 scanned digits lie on a textured background among distractor strokes, each with its
own size, place, rotation and ink. Eleven classes: background and the ten digits; a digit's mask is its ink, slightly
thickened. The source digits are split before composing, so no digit of val or test ever appears in train.
"""

from functools import cache
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits

from segsweep.data.source import Item, Pixels, Sample
from segsweep.data.splits import SPLITS

_VERSION = 1  # raise it with any change below: scenes would differ
_TRIES = 20  # places tried for a digit before the scene does without it
_INK = 0.15  # coverage from which a pixel belongs to the digit: its ink, thickened by the faint rim
Grey = NDArray[np.float64]


class Digits:
    """Scene i of a split is a pure function of (scene_seed, split, i).

    Args:
        size: (H, W) of a scene in pixels.
        num_train: scenes of the train split.
        num_val: scenes of the val split.
        num_test: scenes of the test split.
        max_digits: a scene holds 1..max_digits digits that do not overlap.
        digit_size: smallest and largest side of a digit in pixels.
        max_strokes: a scene holds 0..max_strokes distractor strokes.
        noise: standard deviation of the pixel noise, in 0..1.
        scene_seed: of the scenes; independent of the run's seed, so that all runs see the same data.

    Raises:
        ValueError: the largest digit does not fit the scene.
    """

    def __init__(
        self,
        size: tuple[int, int],
        num_train: Annotated[int, Ge(1)],
        num_val: Annotated[int, Ge(1)],
        num_test: Annotated[int, Ge(1)],
        max_digits: Annotated[int, Ge(1)],
        digit_size: tuple[int, int],
        max_strokes: Annotated[int, Ge(0)],
        noise: Annotated[float, Ge(0)],
        scene_seed: int,
    ) -> None:
        if not 8 <= digit_size[0] <= digit_size[1] <= min(size):  # the scans have 8x8 pixels
            raise ValueError(
                f"data.digit_size={list(digit_size)} must rise from 8 or more and fit data.size={list(size)}"
            )
        self.size = (size[0], size[1])
        self.max_digits, self.digit_size, self.max_strokes = max_digits, tuple(digit_size), max_strokes
        self.noise, self.seed = noise, scene_seed
        counts = zip(SPLITS, (num_train, num_val, num_test), strict=True)
        self._items = {split: [Item(f"{i:05d}", f"{i:05d}") for i in range(num)] for split, num in counts}

    def identity(self) -> object:
        """All settings: there are no files."""
        counts = [len(self._items[split]) for split in SPLITS]
        settings = [self.size, self.max_digits, self.digit_size, self.max_strokes, self.noise, self.seed]
        return ["digits", _VERSION, counts, *settings]

    def items(self) -> dict[str, list[Item]]:
        """Scenes are independent: each is a group of its own."""
        return self._items

    def read(self, split: str, position: int) -> Sample:
        """Composes one scene: grey image (H, W, 1) and mask (H, W)."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), position])
        scene, mask = _background(rng, self.size), np.zeros(self.size, np.uint8)
        for _ in range(rng.integers(0, self.max_strokes + 1)):
            scene = _draw(scene, _stroke(rng, self.size), rng, sign=rng.choice([-1, 1]))
        for _ in range(rng.integers(1, self.max_digits + 1)):
            ink, label = self._digit(rng, split)
            place = _free_place(rng, mask, ink > _INK)
            if place is None:
                continue
            whole = np.zeros(self.size)
            whole[place] = ink
            scene = _draw(scene, whole, rng, sign=1)
            mask[whole > _INK] = label
        scene = scene + rng.normal(0, self.noise, self.size)
        return Sample((scene.clip(0, 1) * 255).round().astype(np.uint8)[:, :, None], mask, {})

    def _digit(self, rng: np.random.Generator, split: str) -> tuple[Grey, int]:
        """A scanned digit, enlarged and rotated: ink in 0..1 and its class 1..10."""
        scans, labels = _scans(split)
        i = rng.integers(len(scans))
        side = int(rng.integers(self.digit_size[0], self.digit_size[1] + 1))
        angle = np.deg2rad(rng.uniform(-15, 15))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 8 / (side - 2)
        centre = np.array([3.5, 3.5]) - turn @ (np.array([side - 1, side - 1]) / 2)
        ink = ndimage.affine_transform(scans[i], turn, centre, (side, side), order=1)
        return ink.clip(0, 1), int(labels[i]) + 1


@cache
def _scans(split: str) -> tuple[Grey, NDArray[np.int64]]:
    """The source digits of a split, 60/20/20 %: (n, 8, 8) in 0..1 and their values 0..9."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    train, val = int(0.6 * len(order)), int(0.8 * len(order))
    part = dict(zip(SPLITS, np.split(order, [train, val]), strict=True))[split]
    return digits.images[part] / 16.0, digits.target[part]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Grey:
    """Smooth texture around a random grey."""
    cells = int(rng.integers(3, 9))
    coarse = rng.uniform(-1, 1, (cells, cells))
    texture = ndimage.zoom(coarse, (size[0] / cells, size[1] / cells), order=1)[: size[0], : size[1]]
    grey: Grey = rng.uniform(0.2, 0.5) + rng.uniform(0.05, 0.2) * texture
    return grey


def _stroke(rng: np.random.Generator, size: tuple[int, int]) -> Grey:
    """A curved line of random length, one to two pixels wide: coverage in 0..1."""
    start, heading = rng.uniform(0, 1, 2) * size, rng.uniform(0, 2 * np.pi)
    length, bend = int(rng.integers(8, 20)), rng.uniform(-0.25, 0.25)
    headings = heading + bend * np.arange(length)
    path = start + np.cumsum(np.stack([np.sin(headings), np.cos(headings)], axis=1), axis=0)
    row, column = path.round().astype(int).T
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    canvas = np.zeros(size)
    canvas[row[inside], column[inside]] = 1
    line: Grey = ndimage.gaussian_filter(canvas, 0.6).clip(0, 0.5) * 2
    return line


def _draw(scene: Grey, coverage: Grey, rng: np.random.Generator, sign: int) -> Grey:
    """Lays ink over the scene, lighter (sign 1) or darker (sign -1) than what lies there on average."""
    under = (scene * coverage).sum() / max(coverage.sum(), 1e-6)
    ink = under + sign * rng.uniform(0.25, 0.5)
    drawn: Grey = (scene * (1 - coverage) + ink * coverage).clip(0, 1)
    return drawn


def _free_place(rng: np.random.Generator, mask: Pixels, ink: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """A place where the ink overlaps no digit that is there already, or None after some tries."""
    taken = ndimage.binary_dilation(mask > 0, iterations=1)
    for _ in range(_TRIES):
        top = int(rng.integers(0, mask.shape[0] - ink.shape[0] + 1))
        left = int(rng.integers(0, mask.shape[1] - ink.shape[1] + 1))
        place = slice(top, top + ink.shape[0]), slice(left, left + ink.shape[1])
        if not (taken[place] & ink).any():
            return place
    return None
