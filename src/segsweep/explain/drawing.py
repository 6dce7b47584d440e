"""Draws images, predictions and maps as uint8 pictures (H, W, 3)."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from segsweep.types import DataSpec

Picture = NDArray[np.uint8]  # (H, W, 3)

_FOR = np.array((178, 24, 43), np.float64)  # the ends of a red and blue scale that any colour vision tells apart
_AGAINST = np.array((33, 102, 172), np.float64)
_OUTLINE = (255, 255, 255)
_STEPS = np.array(  # of a scale from black over violet and orange to pale yellow, rising in lightness
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
     (252, 255, 164)], np.float64,
)  # fmt: skip
_MIN_SIDE = 240  # pixels of a PNG file: smaller pictures are enlarged by a whole factor
_CLIP = 99.5  # percentile of what a map shows at full strength: single pixels would leave all others pale


def photo(image: Tensor, spec: DataSpec) -> Picture:
    """Back from a standardised image (1, C, H, W)."""
    mean, std = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
    intensity = (image[0].numpy() * std + mean).clip(0, 1)
    picture = np.rint(intensity * 255).transpose(1, 2, 0)
    shown: Picture = np.array(np.broadcast_to(picture, (*picture.shape[:2], 3)), np.uint8)
    return shown


def classes(photo: Picture, prediction: NDArray[np.integer], colours: NDArray[np.uint8]) -> Picture:
    """Predicted classes in their colours over the image, which stays visible where class 0 is."""
    painted = colours[prediction].astype(np.float64)
    share = np.where(prediction == 0, 0.25, 0.65)[..., None]
    mixed: Picture = (photo * (1 - share) + painted * share).astype(np.uint8)
    return mixed


def truth(photo: Picture, mask: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Picture:
    """A mask of any size over the image; what is ignored has the colour of its value."""
    size = (photo.shape[1], photo.shape[0])
    return classes(photo, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)), colours)


def outlined(picture: Picture, region: NDArray[np.bool_]) -> Picture:
    """The picture enlarged as ``enlarged`` does, with a line around a region."""
    factor = _factor(picture)
    big, inside = enlarged(picture), np.kron(region, np.ones((factor, factor), bool))
    width = max(1, factor // 3)
    edge = inside & ~ndimage.binary_erosion(inside, iterations=width)
    halo = ndimage.binary_dilation(inside, iterations=width) & ~inside
    big[halo] = 0
    big[edge] = _OUTLINE
    return big


def heat(photo: Picture, values: NDArray[np.floating]) -> Picture:
    """A map that is 0 or more, over the image: the stronger, the less of the image is left."""
    strength = _shares(values)[..., None]
    grey = _grey(photo) * 0.75
    return (grey * (1 - 0.85 * strength) + scale(strength[..., 0]) * 0.85 * strength).clip(0, 255).astype(np.uint8)


def signed(photo: Picture, values: NDArray[np.floating]) -> Picture:
    """A map of both signs over a pale image: red speaks for, blue against."""
    strength = _shares(np.abs(values))[..., None]
    pale = 255 - (255 - _grey(photo)) * 0.35
    colour = np.where(values[..., None] > 0, _FOR, _AGAINST)
    return (pale * (1 - strength) + colour * strength).clip(0, 255).astype(np.uint8)


def level(values: NDArray[np.floating], top: float = 1.0) -> Picture:
    """A map of shares from 0, black, to ``top``, pale yellow."""
    return scale(np.clip(values / max(top, 1e-12), 0, 1)).astype(np.uint8)


def scale(shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shares in 0..1 -> (..., 3) colours in 0..255."""
    place = np.clip(shares, 0, 1) * (len(_STEPS) - 1)
    low = np.minimum(place.astype(int), len(_STEPS) - 2)
    part = (place - low)[..., None]
    colours: NDArray[np.float64] = _STEPS[low] * (1 - part) + _STEPS[low + 1] * part
    return colours


def enlarged(picture: Picture) -> Picture:
    """By a whole factor, until a side has 240 pixels."""
    factor = _factor(picture)
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def _factor(picture: Picture) -> int:
    longer = int(max(picture.shape[:2]))
    return max(1, -(-_MIN_SIDE // longer))


def _grey(photo: Picture) -> NDArray[np.float64]:
    grey = photo @ np.array((0.299, 0.587, 0.114))
    return np.repeat(grey[..., None], 3, axis=2)


def _shares(values: NDArray[np.floating]) -> NDArray[np.float64]:
    top = float(np.percentile(values, _CLIP)) or float(values.max())
    return np.clip(values / top, 0, 1) if top > 0 else np.zeros(values.shape)
