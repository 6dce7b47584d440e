"""A confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segsweep.pictures import Picture

_LARGEST, _SMALLEST = 30, 6  # pixels, side of a cell: TensorBoard shows pictures about 350 pixels wide
_WIDTH = 480  # pixels, of all cells together, as far as the smallest cell allows
_MARGIN = 8
_LETTER, _LINE = 6, 14  # pixels, of the font
_LONGEST = 20  # letters of a name
_NAMED, _NUMBERED = 13, 22  # pixels, cells from which on names and numbers fit
_WHITE, _INK, _ABSENT = (255, 255, 255), (40, 40, 40), (228, 228, 228)
_FULL = np.array((8, 69, 148))  # colour of 100 %


def confusion_picture(counts_KK: NDArray[np.integer], class_names: Sequence[str]) -> Picture:
    """Where the pixels of each class went: rows add up to 100 %.

    Args:
        counts_KK: pixels, truth in rows, predictions in columns.
        class_names: K names.

    Returns:
        (H, W, 3); rows of classes that the truth does not show are grey.
    """
    num = len(class_names)
    side = min(_LARGEST, max(_SMALLEST, _WIDTH // num))
    truth = counts_KK.sum(axis=1, keepdims=True)
    share = counts_KK / np.maximum(truth, 1)
    names = [_short(name) for name in class_names] if side >= _NAMED else []
    edge = max([_LETTER * len(name) for name in names], default=0) + 2 * _MARGIN
    top = edge + _LINE + _MARGIN
    caption = "truth in rows, prediction in columns, % of the row"
    canvas = Image.new("RGB", (max(edge + side * num + _MARGIN, _LETTER * len(caption) + 2 * _MARGIN), top), _WHITE)
    ImageDraw.Draw(canvas).text((_MARGIN, _MARGIN // 2), caption, fill=_INK)
    for k, name in enumerate(names):
        canvas.paste(_upright(name, edge - _MARGIN), (edge + side * k + (side - _LINE) // 2, _LINE + _MARGIN))
    cells = np.where(truth[..., None] > 0, 255 + (_FULL - 255) * share[..., None] ** 0.7, np.array(_ABSENT))
    body = Image.new("RGB", (canvas.width, side * num + _MARGIN), _WHITE)
    body.paste(Image.fromarray(cells.astype(np.uint8)).resize((side * num,) * 2, Image.Resampling.NEAREST), (edge, 0))
    draw = ImageDraw.Draw(body)
    for k, name in enumerate(names):
        draw.text((edge - _MARGIN // 2, side * k + side // 2), name, fill=_INK, anchor="rm")
    if side >= _NUMBERED:
        _write_numbers(draw, share, truth[:, 0] > 0, edge, side)
    return np.concatenate([np.array(canvas), np.array(body)])


def _write_numbers(
    draw: ImageDraw.ImageDraw, share: NDArray[np.floating], shown: NDArray[np.bool_], edge: int, side: int
) -> None:
    for row, column in np.argwhere((share >= 0.005) & shown[:, None]):
        value = share[row, column]
        place = (edge + side * column + side // 2, side * row + side // 2)
        draw.text(place, f"{100 * value:.0f}", fill=_WHITE if value > 0.45 else _INK, anchor="mm")


def _short(name: object) -> str:
    text = str(name).encode("ascii", "replace").decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]}.."


def _upright(name: str, length: int) -> Image.Image:
    """A name that is read from bottom to top."""
    strip = Image.new("RGB", (length, _LINE), _WHITE)
    ImageDraw.Draw(strip).text((0, 1), name, fill=_INK)
    return strip.rotate(90, expand=True)
