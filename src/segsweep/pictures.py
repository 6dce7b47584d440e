"""Pictures of segmentations, image | truth | prediction | error, and of images that models draw, as uint8 arrays."""

import colorsys
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segsweep.types import DataSpec

Picture = NDArray[np.uint8]  # (H, W, 3)

_IGNORED = (90, 90, 90)
_WRONG = (230, 30, 30)
_MIN_HEIGHT = 96  # pixels: smaller images are enlarged by a whole factor, so that one can see something
_MAX_HEIGHT = 256
_CELL = 160  # pixels, longer side of a picture on a contact sheet
_LINE = 14  # pixels, height of a line of text
_COMPRESSION = 3  # of 9: half the time of 6, which is usual, for 3 % more bytes


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
    image: NDArray[np.float32],
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    spec: DataSpec,
    with_overlay: bool = False,
) -> Picture:
    """One row: image | truth | prediction | error.

    Args:
        image: (C, h, w) float32, standardised.
        truth: (H, W) class numbers or ``ignore_index``.
        prediction: (H, W) class numbers.
        spec: statistics and classes of the data.
        with_overlay: whether the prediction laid over the image stands before the error.

    Returns:
        (H', 4 W', 3), or (H', 5 W', 3): right pixels are dimmed in the last picture, wrong ones red, ignored ones grey.
    """
    colours = palette(spec.num_classes)
    height, width = _shown_size(*truth.shape)
    ignored = truth == spec.ignore_index
    photo_shown = _resize(_photo(image, spec), (height, width), Image.Resampling.BILINEAR)
    wrong = _resize(((truth != prediction) & ~ignored).astype(np.uint8), (height, width)).astype(bool)
    error = photo_shown // 3
    error[wrong] = _WRONG
    error[_resize(ignored.astype(np.uint8), (height, width)).astype(bool)] = _IGNORED
    masks = [
        _resize(colours[np.where(ignored, 255, truth)], (height, width)),
        _resize(colours[prediction], (height, width)),
    ]
    overlay = [_tinted(photo_shown, masks[1])] if with_overlay else []
    return np.concatenate([photo_shown, *masks, *overlay, error], axis=1)


def write_png(picture: Picture, file: Path | io.BytesIO) -> None:
    """Writes a picture as PNG."""
    Image.fromarray(picture).save(file, "PNG", compress_level=_COMPRESSION)


def show(writer: Any, tag: str, picture: Picture, step: int) -> None:
    """Writes a picture to TensorBoard's Images tab: what ``writer.add_image`` does, with quicker compression.

    Args:
        writer: a ``SummaryWriter``, or what a trial run of Lightning's (``fast_dev_run``) has in place of one.
        tag: its name.
        picture: (H, W, 3).
        step: beside it.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    if not isinstance(writer, SummaryWriter):
        return
    png = io.BytesIO()
    write_png(picture, png)
    height, width, channels = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
    file: Any = writer.file_writer
    file.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def photos(images: Iterable[NDArray[np.float32]], spec: DataSpec) -> Picture:
    """One row of images of one size, beside each other.

    Args:
        images: (C, h, w) float32, standardised; what is beyond black and white, or no number, is cut off.
        spec: statistics of the data.
    """
    row = [_photo(image, spec) for image in images]
    return np.concatenate([_resize(p, _shown_size(*p.shape[:2]), Image.Resampling.BILINEAR) for p in row], axis=1)


def thumbnail(image: NDArray[np.float32], spec: DataSpec, side: int) -> Picture:
    """A square (side, side, 3) of an image (C, h, w) float32, standardised; longer sides are squeezed."""
    return _resize(_photo(image, spec), (side, side), Image.Resampling.BILINEAR)


def row(image: NDArray[np.float32], masks: Iterable[NDArray[np.integer]], spec: DataSpec) -> Picture:
    """An image and masks of it beside each other, what is ignored in grey.

    Args:
        image: (C, h, w) float32, standardised.
        masks: (h, w) class numbers or ``ignore_index``.
        spec: statistics and classes of the data.
    """
    colours, size = palette(spec.num_classes), _shown_size(*image.shape[1:])
    painted = [_resize(colours[np.where(mask == spec.ignore_index, 255, mask)], size) for mask in masks]
    return np.concatenate([_resize(_photo(image, spec), size, Image.Resampling.BILINEAR), *painted], axis=1)


def contact_sheet(
    rows: list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]], spec: DataSpec, columns: int = 3
) -> Picture:
    """Image | mask | overlay of several images, with their names and a legend of the classes.

    Args:
        rows: name, image (h, w, C) uint8, mask (h, w) uint8.
        spec: facts of the data.
        columns: how many stand beside each other.
    """
    colours = palette(spec.num_classes)
    cells = []
    for name, image, mask in rows:
        photo = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        painted = colours[np.where(mask == spec.ignore_index, 255, mask)]
        size = _cell_size(*mask.shape)
        tinted = _resize(_tinted(photo, painted), size)
        parts = [_resize(photo, size, Image.Resampling.BILINEAR), _resize(painted, size), tinted]
        cells.append(np.concatenate([_caption(name, 3 * size[1]), np.concatenate(parts, axis=1)]))
    height, width = (max(cell.shape[i] for cell in cells) for i in (0, 1))
    fitted = [np.pad(c, ((0, height - c.shape[0] + 6), (0, width - c.shape[1] + 6), (0, 0))) for c in cells]
    blank = np.zeros_like(fitted[0])
    grid = [
        np.concatenate((fitted[i : i + columns] + [blank] * columns)[:columns], axis=1)
        for i in range(0, len(fitted), columns)
    ]
    return np.concatenate([_legend(spec, colours, grid[0].shape[1]), *grid])


def _photo(image: NDArray[np.float32], spec: DataSpec) -> Picture:
    """Back from standardised values; grey images get three equal channels."""
    mean, std = np.array(spec.mean)[:, None, None], np.array(spec.std)[:, None, None]
    intensity = np.nan_to_num(image * std + mean).clip(0, 1)  # a model on its way to a NaN loss still has its picture
    photo = (intensity * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.broadcast_to(photo, (*photo.shape[:2], 3))


def _tinted(photo: NDArray[np.uint8], painted: NDArray[np.uint8]) -> Picture:
    """A mask in colours laid over an image, which shines through; class 0, which is black, leaves it as it is."""
    return np.where((painted.sum(axis=2) > 0)[..., None], photo // 2 + painted // 2, photo)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    scale = _CELL / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _caption(text: str, width: int) -> Picture:
    canvas = Image.new("RGB", (width, _LINE))
    shown = text if len(text) * 6 < width else "..." + text[-(width // 6 - 4) :]
    ImageDraw.Draw(canvas).text((2, 1), shown.encode("ascii", "replace").decode(), fill=(220, 220, 220))
    return np.array(canvas)


def _legend(spec: DataSpec, colours: NDArray[np.uint8], width: int) -> Picture:
    """Coloured squares with the names of the classes, in as many lines as they need."""
    names = [(str(name), tuple(colours[k].tolist())) for k, name in enumerate(spec.class_names)] + [
        ("ignored", _IGNORED)
    ]
    places, x, y = [], 4, 0
    for name, colour in names:
        needed = 6 * len(name) + 28
        if x + needed > width and x > 4:
            x, y = 4, y + _LINE
        places.append((x, y, name, colour))
        x += needed
    canvas = Image.new("RGB", (width, y + _LINE + 4))
    draw = ImageDraw.Draw(canvas)
    for x, y, name, colour in places:
        draw.rectangle((x, y + 2, x + 10, y + 12), fill=colour, outline=(120, 120, 120))
        draw.text((x + 15, y + 1), name.encode("ascii", "replace").decode(), fill=(220, 220, 220))
    return np.array(canvas)


def with_legend(picture: Picture, columns: Iterable[str], spec: DataSpec) -> Picture:
    """A picture below the names of the classes with their colours, and those of its columns, which are equally wide.

    Args:
        picture: (H, W, 3).
        columns: names from left to right.
        spec: classes of the data.
    """
    names = list(columns)
    width = picture.shape[1]
    captions = [_caption(name, width // len(names)) for name in names]
    above = np.concatenate(captions, axis=1)
    above = np.pad(above, ((0, 0), (0, width - above.shape[1]), (0, 0)))
    return np.concatenate([_legend(spec, palette(spec.num_classes), width), above, picture])


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
