"""Pictures of segmentations: image | truth | prediction | error, as uint8 arrays."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segsweep.types import DataSpec

Picture = NDArray[np.uint8]  # (H, W, 3)

_IGNORED = (90, 90, 90)
_WRONG = (230, 30, 30)
_MIN_HEIGHT = 96  # pixels: smaller images are enlarged by a whole factor, so that one can see something
_MAX_HEIGHT = 256


def palette(num_classes: int) -> NDArray[np.uint8]:
    """(256, 3) colours: black for class 0, then hues a golden ratio apart, grey for what is ignored.

    Neighbouring classes differ most, and a class keeps its colour whatever the number of classes.
    """
    colours = np.full((256, 3), _IGNORED, np.uint8)
    colours[0] = 0
    for k in range(1, num_classes):
        hue = (k * 0.61803398875) % 1
        colours[k] = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.95 if k % 2 else 0.7)) * 255
    return colours


def strip(
    image: NDArray[np.float32], truth: NDArray[np.integer], prediction: NDArray[np.integer], spec: DataSpec
) -> Picture:
    """One row: image | truth | prediction | error.

    Args:
        image: (C, h, w) float32, standardised.
        truth: (H, W) class numbers or ``ignore_index``.
        prediction: (H, W) class numbers.
        spec: statistics and classes of the data.

    Returns:
        (H', 4 W', 3): right pixels are dimmed in the last picture, wrong ones red, ignored ones grey.
    """
    colours = palette(spec.num_classes)
    mean, std = np.array(spec.mean)[:, None, None], np.array(spec.std)[:, None, None]
    photo = ((image * std + mean).clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    photo = np.broadcast_to(photo, (*photo.shape[:2], 3))
    height, width = _shown_size(*truth.shape)
    ignored = truth == spec.ignore_index
    photo_shown = _resize(photo, (height, width), Image.Resampling.BILINEAR)
    wrong = _resize(((truth != prediction) & ~ignored).astype(np.uint8), (height, width)).astype(bool)
    error = photo_shown // 3
    error[wrong] = _WRONG
    error[_resize(ignored.astype(np.uint8), (height, width)).astype(bool)] = _IGNORED
    masks = [
        _resize(colours[np.where(ignored, 255, truth)], (height, width)),
        _resize(colours[prediction], (height, width)),
    ]
    return np.concatenate([photo_shown, *masks, error], axis=1)


def stack(strips: list[Picture]) -> Picture:
    """Puts strips below each other; narrower ones are filled with black."""
    width = max(s.shape[1] for s in strips)
    return np.concatenate([np.pad(s, ((0, 2), (0, width - s.shape[1]), (0, 0))) for s in strips])


def _shown_size(height: int, width: int) -> tuple[int, int]:
    factor = max(1, -(-_MIN_HEIGHT // height)) if height < _MIN_HEIGHT else min(1.0, _MAX_HEIGHT / height)
    return round(height * factor), round(width * factor)


def _resize(
    picture: NDArray[np.uint8], size: tuple[int, int], how: Image.Resampling = Image.Resampling.NEAREST
) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize((size[1], size[0]), how))
