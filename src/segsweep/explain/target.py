"""What is to be explained: why a class was predicted over a region."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segsweep.hints import did_you_mean
from segsweep.run import ConfigError
from segsweep.types import DataSpec


@dataclass(frozen=True)
class Target:
    """A class and where.

    Attributes:
        number: of the class.
        name: of the class.
        region: (H, W) bool, pixels over which its logit is averaged.
        about: the region in words.
    """

    number: int
    name: str
    region: NDArray[np.bool_]
    about: str


def class_number(name: str, spec: DataSpec) -> int:
    """The number of a class.

    Raises:
        ConfigError: there is no such class.
    """
    if name not in spec.class_names:
        raise ConfigError(f"--class {name}: the run has no such class. {did_you_mean(name, spec.class_names)}")
    return spec.class_names.index(name)


def class_target(prediction: NDArray[np.integer], spec: DataSpec, name: str | None) -> Target:
    """All pixels predicted as a class.

    Args:
        prediction: (H, W) class numbers.
        spec: classes of the data.
        name: of the class; None: the most frequent one in the prediction that is not class 0.
    """
    if name is None:
        counts = np.bincount(prediction.ravel(), minlength=spec.num_classes)
        number = int(counts[1:].argmax()) + 1 if counts[1:].any() else 0
    else:
        number = class_number(name, spec)
    region = prediction == number
    name = spec.class_names[number]
    if not region.any():
        about = "nowhere predicted, so its logit is averaged over the whole image"
        return Target(number, name, np.ones_like(region), about)
    return Target(number, name, region, f"the {_pixels(region)} predicted as it")


def point_target(
    prediction: NDArray[np.integer], spec: DataSpec, point: tuple[int, int], native: tuple[int, int], shown: str
) -> Target:
    """The connected region of one predicted class around a point.

    Args:
        prediction: (H, W) class numbers.
        spec: classes of the data.
        point: row and column in the image's own pixels, from 0.
        native: (H', W'), size of the image in its file.
        shown: its name in messages.

    Raises:
        ConfigError: the point is not in the image.
    """
    refuse_outside(point, native, shown)
    row, column = (point[i] * prediction.shape[i] // native[i] for i in (0, 1))
    number = int(prediction[row, column])
    labels, _ = ndimage.label(prediction == number)
    region = labels == labels[row, column]
    about = f"the region of {_pixels(region)} around row {point[0]}, column {point[1]}"
    return Target(number, spec.class_names[number], region, about)


def refuse_outside(point: tuple[int, int], native: tuple[int, int], shown: str) -> None:
    """Raises a ``ConfigError`` if an image of this size has no such point."""
    if not all(0 <= point[i] < native[i] for i in (0, 1)):
        raise ConfigError(
            f"--point {point[0]} {point[1]} is outside of {shown}: rows are 0..{native[0] - 1}, columns "
            f"0..{native[1] - 1}"
        )


def _pixels(region: NDArray[np.bool_]) -> str:
    num = int(region.sum())
    return f"{num:,} pixel{'' if num == 1 else 's'}"
